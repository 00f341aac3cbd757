"""The commands of `spin-trl`, a module each: `add` describes its arguments, the other function runs it."""
