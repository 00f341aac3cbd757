"""Every case has its test, and every test of this folder belongs to a case."""

from __future__ import annotations

import ast
from pathlib import Path

CASES = {
    "overwrite deletes users' files": (
        "overwrite_leaves_files_that_the_run_has_not_written",
        "overwrite_of_a_run_leaves_what_was_added_to_its_folder",
    ),
    "prepared rows written over users' data": ("prepared_rows_are_not_written_over_a_users_dataset",),
    "LoRA's modules to save": ("lora_with_whole_modules_plays_two_iterations",),
    "LoRA on embeddings": (
        "lora_on_embeddings_plays_two_iterations",
        "lora_on_embeddings_is_trained_twice_in_python",
    ),
    "adapter start, several EOS": ("an_adapters_base_may_name_several_ends",),
    "system column dropped": (
        "a_system_column_beside_sharegpt_is_a_system_turn",
        "a_system_column_beside_text_is_named",
    ),
    "Alpaca's input dropped": (
        "alpacas_input_stands_in_the_prompt",
        "without_its_input_alpaca_has_one_prompt_and_nothing_is_held_out",
    ),
    "content parts as Python's repr": ("content_parts_are_read_as_text",),
    "turns that the template skips": (
        "sharegpts_tool_turns_reach_the_prompt",
        "a_turn_of_an_unknown_role_refuses_its_row",
    ),
    "held-out prompts are trained on": (
        "prompts_that_are_held_out_by_name_are_not_trained_on",
        "where_the_overlap_goes_is_a_setting",
    ),
    "real answers beyond max_length": ("real_answers_that_max_length_cuts_are_counted",),
    "unknown characters end an answer": ("a_character_without_a_token_does_not_end_an_answer",),
    "read-only dataset folder": ("a_dataset_in_a_folder_that_is_read_only_is_played",),
    "PiSSA and OLoRA": ("adapters_that_change_their_base_are_refused",),
    "NEFTune": ("neftune_is_refused_by_name",),
    "LoRA on 8 bits": ("lora_on_8_bit_weights_is_played",),
    "token ids beyond the embeddings": ("tokens_beyond_the_embeddings_are_named",),
    "adapter with resized embeddings": ("an_adapter_with_resized_embeddings_is_a_start",),
    "scorer in the current folder": ("a_scorer_in_the_current_folder_is_found",),
    "CSV with numbers and NA": (
        "answers_in_csv_are_text",
        "rows_of_csv_with_another_number_of_fields_are_refused_by_line",
        "a_csv_file_of_unpaired_preferences_is_not_taken_for_answers",
    ),
    "refused only after generation": ("what_can_not_be_played_is_said_before_answers_are_generated",),
    "output_dir ignored": (
        "output_dir_is_the_run_directory",
        "output_dir_gives_way_to_run_dir_and_to_a_run_that_is_there",
    ),
    "continued from another folder": (
        "the_same_data_and_model_by_other_paths_continue_a_run",
        "other_data_by_another_path_does_not_continue_a_run",
    ),
    "Python's arguments without a clear error": (
        "rows_of_every_usual_kind_are_played",
        "a_dpo_config_is_completed",
        "a_peft_model_whose_base_is_on_no_disk_is_played",
        "arguments_of_the_wrong_kind_are_refused_by_name",
    ),
    "one LoRA target module": ("one_lora_target_module_is_adapted",),
    "two BOS": ("text_that_begins_with_bos_has_one",),
    "cached rows of a tokenizer without BOS": (
        "a_tokenizer_that_adds_bos_gets_no_rows_from_one_that_does_not",
        "tokenizers_with_ends_of_their_own_share_no_rows",
    ),
    "a token in the settings of a model": ("a_token_among_a_models_settings_is_refused_and_kept_nowhere",),
    "a scorer that reads as markup": ("a_scorer_with_brackets_and_slashes_does_not_end_a_run",),
}
"""Tests by what failed once. The first has the case's own input, the others have related ones."""


def test_every_case_has_its_tests_and_every_test_its_case() -> None:
    """They are listed by name, so that none is lost when tests are renamed or moved."""
    found = [
        node.name.removeprefix("test_")
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert sorted(found) == sorted(name for names in CASES.values() for name in names)
    assert all(CASES.values())
