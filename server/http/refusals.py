"""Parameters of other servers that would change the answer and are not done here: the one table of them.

What is in no table is ignored, as OpenAI's clients expect of hints (``user``, ``metadata``, ``store``, ...).
"""

from __future__ import annotations

from collections.abc import Mapping

from server.http.bodies import Refusal

_FORM = "ask for structure with response_format (json_object or json_schema), which the vLLM engine does."
_TOOLS = "use tools and tool_choice."
_BEAMS = "answers are sampled; there is no beam search."
_TEMPLATE = "the model's own chat template is used, with its defaults."
_SPECIAL = "special tokens are added as the model's tokenizer and template do."
_TOKENS = "use logit_bias, with token ids, to forbid or favour tokens."
_SAMPLERS = "use temperature, top_p, top_k, min_p and the penalties."
_WEIGHTS = "the one model that is served is used as it is."
_TEXT = "this server reads and writes text."
_DETAILS = "use logprobs and top_logprobs."


def _all(names: str, why: str, *harmless: object) -> dict[str, Refusal]:
    return dict.fromkeys(names.split(), Refusal(why, harmless))


SAMPLING: Mapping[str, Refusal] = {
    # Structure: vLLM's names, SGLang's, llama.cpp's, TGI's, Ollama's, and those of hosted services.
    **_all("guided_choice guided_regex guided_grammar guided_decoding_backend guided_whitespace_pattern", _FORM),
    **_all("structural_tag grammar grammar_lazy grammar_triggers regex ebnf lark_grammar gbnf", _FORM),
    **_all("format json_mode response_schema output_schema", _FORM),
    # Calls and history.
    **_all("functions", _TOOLS),
    **_all("function_call", _TOOLS, "none"),
    **_all("tools", "tools belong to chat completions."),
    **_all("tool_choice", "tools belong to chat completions.", "none", "auto"),
    **_all("documents", "put documents into messages, or into a cube's memories."),
    **_all("memory", "memories belong to chat completions.", {"mode": "off"}),
    **_all("continue_final_message", "each answer begins a turn of its own."),
    **_all("add_generation_prompt", "each answer begins a turn of its own.", True),
    **_all("echo", "the answer is returned without what was asked."),
    # More than one attempt at an answer, and another length.
    "best_of": Refusal("each of the n answers is returned.", like="n"),
    **_all("use_beam_search early_stopping", _BEAMS),
    **_all("num_beams beam_width num_beam_groups", _BEAMS, 1),
    **_all("length_penalty", _BEAMS, 0, 1),
    **_all("max_completion_tokens max_new_tokens max_output_tokens", "use max_tokens."),
    **_all("n_predict num_predict", "use max_tokens.", -1),
    **_all("min_new_tokens", "use min_tokens.", 0),
    **_all("suffix", "the model continues a prompt and does not fill in its middle."),
    # The prompt.
    **_all("truncate_prompt_tokens", "shorten the prompt; it is never cut here.", -1),
    **_all("truncation", "shorten the prompt; it is never cut here.", "disabled"),
    **_all("truncate", "shorten the prompt; it is never cut here."),
    **_all("chat_template chat_template_kwargs enable_thinking thinking_budget thinking_token_budget", _TEMPLATE),
    **_all("add_special_tokens", _SPECIAL),
    **_all("cache_salt", "what is reused is kept apart by API key; give each tenant a key of its own."),
    # Other models, other media, other knowledge.
    **_all("lora lora_path lora_request adapter_id adapter_name", _WEIGHTS),
    **_all("audio mm_processor_kwargs image_data audio_data video_data", _TEXT),
    **_all("modalities", _TEXT, ["text"]),
    **_all("web_search_options search_parameters", "nothing is searched but memories."),
    **_all("prediction", "the answer is not predicted from a text of yours."),
    # Choosing tokens.
    **_all("logits_processors logits_processor custom_logit_processor", _TOKENS),
    **_all("allowed_token_ids bad_words bad_words_ids banned_tokens", _TOKENS),
    **_all("typical_p tfs_z", _SAMPLERS, 1),
    **_all("top_a mirostat mirostat_mode dry_multiplier xtc_probability dynatemp_range", _SAMPLERS, 0),
    **_all("no_repeat_ngram_size smoothing_factor top_n_sigma", _SAMPLERS, 0, -1),
    **_all("samplers sampler_seq", _SAMPLERS),
    **_all("repeat_penalty", "use repetition_penalty.", 1),
    **_all("do_sample", "use temperature 0 for the likeliest token.", True),
    **_all("random_seed", "use seed."),
    **_all("watermark", "answers carry no watermark."),
    # Where the answer ends, and what is told of it.
    **_all("stop_sequences stop_strings stop_regex", "use stop, with texts."),
    **_all("include_stop_str_in_output no_stop_trim", "the stop text is never part of the answer."),
    **_all("skip_special_tokens", "special tokens are never part of the answer.", True),
    **_all("prompt_logprobs decoder_input_details return_full_text logprob_start_len return_logprob", _DETAILS),
    **_all("n_probs top_n_tokens", _DETAILS, 0),
    **_all("top_logprobs", "use logprobs, a number here.", 0),
    **_all("return_token_ids return_tokens_as_token_ids return_tokens return_hidden_states", _DETAILS),
}
"""Of chat and completions; a body's own fields are exempt."""

COMPLETION: Mapping[str, Refusal] = {**SAMPLING, "add_special_tokens": Refusal(_SPECIAL, (True,))}
"""Of completions: there, special tokens are added unless they are declined."""

STRUCTURED_OUTPUTS: Mapping[str, Refusal] = {
    **_all("regex choice grammar structural_tag whitespace_pattern", _FORM),
    **_all("disable_any_whitespace disable_additional_properties disable_fallback backend", _FORM),
}

MESSAGE: Mapping[str, Refusal] = {
    **_all("function_call", "send tool_calls, each with an id, and the results with role tool."),
    **_all("prefix partial", "each answer begins a turn of its own."),
    **_all("audio", _TEXT),
}

STREAM_OPTIONS: Mapping[str, Refusal] = _all("continuous_usage_stats", "usage comes once, with include_usage.")
