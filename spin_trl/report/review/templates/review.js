// The page on which people compare answers: a prompt, two answers, and no hint of whose they are.
//
// The page is used in two ways. As a file, it holds its data, and votes leave it as another file. From `spin-trl review`,
// it gets its data from the local server, and sends every vote there. In both, the browser keeps the votes, so the page can
// be closed and opened again.
//
// In this order: what is remembered, the server, votes, drawing, moving about, saving, and events. Nothing here makes
// elements of a text: all texts are set as `textContent`.

const $ = (id) => document.getElementById(id);
const isServed = $("data") === null;
const choiceButtons = [...document.querySelectorAll("[data-choice]")];
const reasonBoxes = [...document.querySelectorAll("[data-reason]")];
const CHOICES = new Map(choiceButtons.map((button) => [button.dataset.choice, button.firstChild.textContent.trim()]));
const REASONS = reasonBoxes.map((box) => box.dataset.reason);
const NOTE_PAUSE = 800; // milliseconds without typing after which a note is sent
const LONG = 100_000; // characters from which paragraphs have no text direction of their own

let page = null; // the data: run, digest and pairs
let state = null; // what one reviewer has done; see `stateOf`

// ---- What is remembered ----

/** One of the browser's two stores. Where the browser refuses it, values last until the page is closed. */
class Store {
  constructor(name) {
    this.values = new Map();
    this.isKept = true; // whether the browser has taken the last value
    try {
      this.browsers = window[name];
    } catch {
      this.browsers = null;
    }
  }

  get(key) {
    return this.values.get(key) ?? this.browsers?.getItem(key) ?? null;
  }

  set(key, value) {
    try {
      this.browsers.setItem(key, value);
      this.values.delete(key);
      this.isKept = true;
    } catch {
      this.values.set(key, value);
      this.isKept = false;
    }
  }
}

const forever = new Store("localStorage");
const thisTab = new Store("sessionStorage");

const keyOf = (name) => `spin_trl review ${page.page} ${name}`;
const keyOfReviewer = (reviewer) => keyOf(`votes of ${reviewer}`);
const LAST_REVIEWER = "last reviewer";

/** Return the JSON in a text, or null if there is none. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Return a vote that was stored or received, with known values only. A vote without a choice is a draft. */
function asVote(found) {
  return {
    choice: CHOICES.has(found?.choice) ? found.choice : null,
    reasons: REASONS.filter((reason) => Array.isArray(found?.reasons) && found.reasons.includes(reason)),
    note: typeof found?.note === "string" ? found.note : "",
  };
}

/** Read what a reviewer has done, by pair: votes, those that the server lacks, and the place in the reviewer's order. */
function stateOf(reviewer) {
  const kept = parsed(forever.get(keyOfReviewer(reviewer)));
  const ids = page.pairs.map((pair) => pair.id);
  return {
    reviewer,
    order: orderOf(reviewer),
    votes: new Map(ids.map((id) => [id, asVote(kept?.votes?.[id])])),
    unsent: new Set(ids.filter((id) => Array.isArray(kept?.unsent) && kept.unsent.includes(id))),
    position: Number.isInteger(kept?.position) ? Math.min(Math.max(kept.position, 0), ids.length) : null,
  };
}

function keep(of = state) {
  const { votes, unsent, position } = of;
  const text = JSON.stringify({ votes: Object.fromEntries(votes), unsent: [...unsent], position });
  forever.set(keyOfReviewer(of.reviewer), text);
  $("not-kept").hidden = isServed || forever.isKept;
}

/** Return the pairs in a reviewer's own order, which is the same in every browser. */
function orderOf(reviewer) {
  const ranks = new Map(page.pairs.map((pair) => [pair, hash(JSON.stringify([reviewer, page.page, pair.id]))]));
  return [...page.pairs].sort((a, b) => ranks.get(a) - ranks.get(b) || (a.id < b.id ? -1 : 1));
}

/** Hash a text to 32 bits: FNV-1a, then MurmurHash3's last steps, which let every character change every bit. */
function hash(text) {
  let bits = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) bits = Math.imul(bits ^ byte, 0x01000193);
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}

// ---- The server ----

const UNREACHABLE = 0;
const NO_SESSION = 401;

/** A request that failed: a message to show, and the server's status, or `UNREACHABLE`. */
class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Send a request to the local server, and return its JSON, or throw a `Failure`. */
async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  const session = thisTab.get("spin_trl review session");
  if (session) headers.Authorization = `Bearer ${session}`;
  let answer;
  try {
    // Some votes are sent while the page is being closed: `keepalive` lets them arrive.
    answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), keepalive: true });
  } catch {
    throw new Failure("The server does not answer. Is `spin-trl review` still running?", UNREACHABLE);
  }
  const found = parsed(await answer.text().catch(() => null));
  if (answer.ok && found !== null) return found;
  throw new Failure(found?.error ?? `The server's status is ${answer.status}.`, answer.status);
}

/** Get the data: with the token in the address, which works once, or with the session of this tab. */
async function fetchPage() {
  const token = location.hash.slice(1);
  if (token) {
    const found = await ask("/session", { token });
    thisTab.set("spin_trl review session", found.session);
    history.replaceState(null, "", location.pathname);
    return found.page;
  }
  if (!thisTab.get("spin_trl review session")) {
    throw new Failure("This address lacks its last part. Open the whole address that `spin-trl review` shows.", NO_SESSION);
  }
  return (await ask("/page", {})).page;
}

let isSending = false;
let isMore = false;

/** Send the votes that the server lacks. What can't be sent stays, and the page says so. */
async function send() {
  if (!isServed || state === null) return;
  isMore = isSending;
  if (isSending) return;
  isSending = true;
  const mine = state;
  let failure = null;
  for (const id of mine.unsent) {
    const vote = mine.votes.get(id);
    const sent = JSON.stringify(vote);
    try {
      await ask("/votes", { reviewer: mine.reviewer, vote: { pair: id, ...vote } });
      if (JSON.stringify(mine.votes.get(id)) === sent) mine.unsent.delete(id);
      else isMore = true;
    } catch (error) {
      failure = error;
      // A refusal may concern this vote alone; without a server or a session none can be sent.
      if (error.status === UNREACHABLE || error.status === NO_SESSION) break;
    }
  }
  keep(mine);
  isSending = false;
  drawUnsent(mine === state ? failure : null);
  if (isMore) send();
}

let notePause = null;

function sendSoon() {
  clearTimeout(notePause);
  notePause = setTimeout(send, NOTE_PAUSE);
}

// ---- Votes ----

const pairHere = () => state.order[state.position];
const voteHere = () => state.votes.get(pairHere().id);
const isVoted = (pair) => state.votes.get(pair.id).choice !== null;
const isSaved = () => $("saved").hasChildNodes(); // a change after saving takes the message away
const countVoted = () => page.pairs.filter(isVoted).length;

/** Change the vote on this pair, and keep it. Votes can be sent, drafts can't. */
function change(part) {
  const vote = { ...voteHere(), ...part };
  state.votes.set(pairHere().id, vote);
  if (isServed && vote.choice !== null) state.unsent.add(pairHere().id);
  keep();
  $("saved").replaceChildren();
  drawVote();
}

function choose(choice) {
  change({ choice });
  send();
  if (choice === "skip") goTo(state.position + 1);
  else say(`${CHOICES.get(choice)}. Next goes on.`);
}

// ---- Drawing ----

const inWords = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Create an element that holds text or other elements. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function textOf({ text, left_out: leftOut }) {
  const className = text.length > LONG ? "text long" : "text";
  const shown = make("div", { className, dir: "auto", textContent: text });
  if (!leftOut) return [shown];
  return [shown, make("p", { className: "soft", textContent: `… and ${inWords(leftOut, "more character")}, not shown.` })];
}

const roleOf = ({ role }) => make("p", { className: "role soft" }, make("bdi", { textContent: role }));

function say(text) {
  $("status").textContent = text;
}

function showOnly(screen) {
  for (const id of ["opening", "start", "pair", "end"]) $(id).hidden = id !== screen;
  $("tools").hidden = state === null;
}

function drawFailedOpening(failure) {
  showOnly("opening");
  $("opening-text").textContent = failure.message;
  $("open-again").hidden = failure.status !== UNREACHABLE;
}

function drawSubject() {
  document.title = `${page.name}: review, ${page.title}`;
  $("subject").replaceChildren(make("bdi", { textContent: page.name }), " · ", make("bdi", { textContent: page.title }));
  // A prompt may come more than once, with other answers.
  const count = page.pairs.length === 1 ? "a pair" : `${page.pairs.length} pairs`;
  $("task").textContent = `You will see ${count} of answers. Say which answer is better, or that both are good or bad. `
    + "Whose the answers are is not shown, and their sides were drawn by chance.";
  $("whereto").textContent = isServed
    ? "Your votes go to the `spin-trl review` that runs on this computer, and nowhere else."
    : "This page sends nothing. At the end, or at any time, save your votes as a file and hand it in.";
}

function drawPair() {
  const pair = pairHere();
  showOnly("pair");
  $("where").textContent = `Pair ${state.position + 1} of ${state.order.length}`;
  const isQuestion = pair.prompt.length === 1 && pair.prompt[0].role === "user";
  $("prompt").replaceChildren(
    ...pair.prompt.flatMap((message) => (isQuestion ? textOf(message) : [roleOf(message), ...textOf(message)])),
  );
  for (const side of ["left", "right"]) $(`answer-${side}`).replaceChildren(...textOf(pair[side]));
  for (const box of document.querySelectorAll(".box")) box.scrollTop = 0;
  $("back").setAttribute("aria-disabled", state.position === 0);
  say("");
  drawVote();
  drawWhole();
}

function drawVote() {
  const { choice, reasons, note } = voteHere();
  for (const button of choiceButtons) button.setAttribute("aria-pressed", button.dataset.choice === choice);
  for (const box of reasonBoxes) box.checked = reasons.includes(box.dataset.reason);
  if ($("note").value !== note) $("note").value = note;
  const liked = { left: ["left"], right: ["right"], both_good: ["left", "right"] }[choice] ?? [];
  for (const answer of document.querySelectorAll(".answer")) {
    answer.classList.toggle("chosen", liked.includes(answer.dataset.side));
  }
  $("next").setAttribute("aria-disabled", choice === null);
  $("progress").max = page.pairs.length;
  $("progress").value = countVoted();
  $("voted").textContent = `${countVoted()} of ${page.pairs.length} done`;
}

/** Offer to unfold the texts if one of them has to be scrolled. */
function drawWhole() {
  const isWhole = $("pair").classList.contains("whole");
  const boxes = [...document.querySelectorAll(".box")];
  $("whole").hidden = !isWhole && boxes.every((box) => box.scrollHeight <= box.clientHeight);
  $("whole").setAttribute("aria-pressed", isWhole);
}

function drawEnd() {
  showOnly("end");
  const skipped = page.pairs.filter((pair) => state.votes.get(pair.id).choice === "skip").length;
  const missing = page.pairs.length - countVoted();
  const name = make("bdi", { textContent: state.reviewer });
  $("end-heading").replaceChildren(missing ? "Nearly done, " : "Done. Thank you, ", name, ".");
  $("count").textContent = `${inWords(countVoted() - skipped, "vote")}, ${skipped} skipped`
    + (missing ? `, ${missing} still without a vote.` : ".");
  drawWhatNow();
  $("save-at-end").classList.toggle("main", !isServed);
  $("overview").replaceChildren(...state.order.map((pair, position) => {
    const label = CHOICES.get(state.votes.get(pair.id).choice) ?? "no vote";
    const button = make("button", { type: "button" }, make("b", { textContent: position + 1 }), " ", label);
    button.addEventListener("click", () => goTo(position));
    return make("li", {}, button);
  }));
}

function drawWhatNow() {
  const isDone = isServed ? state.unsent.size === 0 : isSaved();
  $("what-now").textContent = {
    "served, done": "Your votes are recorded. You can close this page.",
    "served, not done": "Your last votes are not recorded yet.",
    "file, done": "Hand in the file, and you are done.",
    "file, not done": "Your votes are only in this browser. Save them as a file, and hand it in.",
  }[`${isServed ? "served" : "file"}, ${isDone ? "done" : "not done"}`];
}

function drawUnsent(failure) {
  const isShown = failure !== null && state.unsent.size > 0;
  $("unsent").hidden = !isShown;
  if (state !== null) drawWhatNow();
  if (!isShown) return;
  const which = state.unsent.size === 1 ? "1 vote is" : `${state.unsent.size} votes are`;
  // The browser keeps votes for this address only, and a server that is started again may have another one.
  $("unsent-text").textContent = `${failure.message}\n${which} not sent. Try again, or save your votes as a file.`;
}

// ---- Moving about ----

/** Show a pair by its place in the reviewer's order, or the end after the last one. */
function goTo(position) {
  state.position = Math.min(Math.max(position, 0), state.order.length);
  keep();
  const isEnd = state.position === state.order.length;
  if (isEnd) drawEnd();
  else drawPair();
  // The heading takes the focus, so that a screen reader reads the new place and Tab goes on from it.
  $(isEnd ? "end-heading" : "where").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function next() {
  if (voteHere().choice === null) say("Choose first, or skip this pair.");
  else goTo(state.position + 1);
}

function askForName() {
  state = null;
  drawUnsent(null);
  showOnly("start");
  $("saved").replaceChildren();
  $("name-wrong").textContent = "";
  $("name").focus();
}

/** Go on as a reviewer. Votes that the server has count, unless this browser has later ones that were not sent. */
async function startAs(name) {
  // Without characters that can't be seen: a name with one would be refused.
  const reviewer = name.normalize("NFC").replace(/\p{Cf}+/gu, "").replace(/[\s\p{C}]+/gu, " ").trim();
  if (!reviewer) throw new Error("Write your name first.");
  const found = stateOf(reviewer);
  if (isServed) {
    const there = new Map((await ask("/votes-of", { reviewer })).votes.map((vote) => [vote.pair, asVote(vote)]));
    for (const [id, vote] of found.votes) {
      if (there.has(id) && !found.unsent.has(id)) found.votes.set(id, there.get(id));
      else if (vote.choice !== null) found.unsent.add(id);
    }
  }
  state = found;
  forever.set(keyOf(LAST_REVIEWER), reviewer);
  thisTab.set(keyOf(LAST_REVIEWER), reviewer);
  $("reviewer").textContent = reviewer;
  const firstOpen = state.order.findIndex((pair) => !isVoted(pair));
  goTo(state.position ?? (firstOpen < 0 ? state.order.length : firstOpen));
  send();
}

/** Open the page. A reload goes on at once; a tab that is new first asks who is there. */
async function openPage() {
  try {
    page = isServed ? await fetchPage() : JSON.parse($("data").textContent);
  } catch (failure) {
    drawFailedOpening(failure);
    return;
  }
  drawSubject();
  askForName();
  $("name").value = forever.get(keyOf(LAST_REVIEWER)) ?? "";
  const here = thisTab.get(keyOf(LAST_REVIEWER));
  if (here) await start(here);
}

async function start(name) {
  try {
    await startAs(name);
  } catch (error) {
    $("name-wrong").textContent = error.message;
  }
}

// ---- Saving ----

/** Save the votes as a file, and say what to do with it. Its name needs no quotes in a shell. */
function saveVotes() {
  const name = `votes-${state.reviewer.replace(/[^\p{L}\p{M}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "reviewer"}.json`;
  const votes = page.pairs.filter(isVoted).map((pair) => ({ pair: pair.id, ...state.votes.get(pair.id) }));
  const { run, page: digest } = page;
  const file = { format: "spin_trl review votes", version: 1, run, page: digest, reviewer: state.reviewer, votes };
  const content = new Blob([`${JSON.stringify(file, null, 1)}\n`], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(content), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  $("saved").replaceChildren(
    make("p", {},
      `Votes on ${votes.length} of ${inWords(page.pairs.length, "pair")} are saved as `, make("bdi", { textContent: name }),
      " where this browser saves downloads. Hand the file to the person who plays the run. This command reads it:",
    ),
    make("code", {}, "spin-trl review RUN_DIRECTORY ", make("bdi", { textContent: name })),
  );
  $("saved").scrollIntoView({ block: "nearest" });
  drawWhatNow();
}

// ---- Events ----

/** Return the key of an event as `aria-keyshortcuts` names it, in lower case: what it types, or where it lies. */
function shortcutOf({ key, code }) {
  // French keyboards type digits with Shift, and those of other scripts have no Latin letters: there the place counts.
  const byPlace = code.startsWith("Digit") || !/^[ -~]$/.test(key);
  return (byPlace ? code.replace(/^(Key|Digit)/, "") : key).toLowerCase();
}

/** Return the control that a key works on the screen that is shown, if there is one. */
function controlOf(event) {
  const pressed = shortcutOf(event);
  return [...document.querySelectorAll("[aria-keyshortcuts]")].find((element) =>
    element.getAttribute("aria-keyshortcuts").toLowerCase().split(" ").includes(pressed) && !element.closest("[hidden]"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || event.repeat) return;
  if (event.target.matches("textarea, input[type=text]")) {
    if (event.key === "Escape" && state !== null) $("where").focus({ preventScroll: true });
    return;
  }
  const control = $("keys").checked ? controlOf(event) : undefined;
  if (control === undefined) return;
  event.preventDefault();
  if (control === $("note")) control.focus();
  else control.click();
});

for (const button of choiceButtons) button.addEventListener("click", () => choose(button.dataset.choice));
for (const box of reasonBoxes) {
  box.addEventListener("change", () => {
    change({ reasons: REASONS.filter((_, number) => reasonBoxes[number].checked) });
    send();
  });
}
$("note").addEventListener("input", () => {
  change({ note: $("note").value.toWellFormed?.() ?? $("note").value });
  sendSoon();
});
$("note").addEventListener("change", send);

$("next").addEventListener("click", next);
$("back").addEventListener("click", () => state.position > 0 && goTo(state.position - 1));
$("last").addEventListener("click", () => goTo(state.order.length - 1));
$("whole").addEventListener("click", () => {
  $("pair").classList.toggle("whole");
  drawWhole();
});
$("save").addEventListener("click", saveVotes);
$("save-at-end").addEventListener("click", saveVotes);
$("send-again").addEventListener("click", send);
$("open-again").addEventListener("click", openPage);
$("change").addEventListener("click", () => {
  $("name").value = "";
  thisTab.set(keyOf(LAST_REVIEWER), "");
  askForName();
});
$("keys").addEventListener("change", () => {
  document.body.classList.toggle("without-keys", !$("keys").checked);
  forever.set("spin_trl review keys", $("keys").checked ? "on" : "off");
});
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start($("name").value);
});

addEventListener("resize", () => state !== null && drawWhole());
addEventListener("hashchange", () => location.reload()); // another address was opened in this tab
addEventListener("visibilitychange", () => document.hidden && send());
addEventListener("storage", ({ key }) => {
  // Another tab has changed this reviewer's votes.
  if (state === null || key !== keyOfReviewer(state.reviewer)) return;
  const { votes, unsent } = stateOf(state.reviewer);
  Object.assign(state, { votes, unsent });
  if (state.position === state.order.length) drawEnd();
  else drawVote();
});
addEventListener("beforeunload", (event) => {
  if (state === null || forever.isKept) return;
  const isLost = isServed ? state.unsent.size > 0 : countVoted() > 0 && !isSaved();
  if (isLost) event.preventDefault();
});

if (forever.get("spin_trl review keys") === "off") $("keys").click();
openPage();
