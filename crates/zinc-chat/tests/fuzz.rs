//! Random tokens of real vocabularies, through the decoder and the parser: text is UTF-8, arguments are
//! JSON, whatever comes.

#![allow(clippy::unwrap_used)] // A test that unwraps fails, as it should.

mod support;

use support::draw::Draw;
use support::syntaxes::{TEMPLATES, call, format_of};
use support::{builtin, join, small_tools, tokenizer};
use zinc_chat::{AnswerParser, ChatPrompt};
use zinc_token::{DecodeOptions, EncodeOptions, StreamDecoder, Tokenizer};

/// Random ids, in which pieces of calls are strewn so that the parser has something to do.
fn stream(tokenizer: &Tokenizer, syntax: &str, draw: &mut Draw) -> Vec<u32> {
    let options = EncodeOptions { add_special: false, parse_special: true };
    let whole = tokenizer.encode(&call(syntax, "get_weather"), options);
    let n_tokens = tokenizer.vocab().n_tokens();
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.extend((0..draw.below(8)).map(|_| draw.below(n_tokens) as u32));
        let begin = draw.below(2) * draw.below(whole.len());
        let end = whole.len() - draw.below(2) * draw.below(whole.len());
        ids.extend(&whole[begin.min(end)..end]);
        if draw.below(2) == 0 {
            let at = draw.below(ids.len() + 1);
            ids.insert(at, draw.below(n_tokens) as u32);
        }
    }
    ids
}

#[test]
fn random_tokens_keep_the_contract() {
    let model = builtin();
    let others = ["qwen2", "llama-bpe", "gemma-4", "phi-3"].map(|name| (name, tokenizer(name)));
    let others = others.iter().filter_map(|(name, other)| Some((*name, other.as_ref()?)));
    let tokenizers: Vec<_> = [("builtin", model.tokenizer())].into_iter().chain(others).collect();
    let tools = small_tools();
    for (vocab, tokenizer) in tokenizers {
        for (syntax, template) in TEMPLATES {
            let format = format_of(tokenizer, template);
            for seed in 0..12 {
                let mut draw = Draw::new(seed);
                let ids = stream(tokenizer, syntax, &mut draw);
                let prompt =
                    ChatPrompt { opens_thinking: seed % 3 == 0, ..ChatPrompt::plain(Vec::new()) };
                let options = DecodeOptions { skip_special: true, at_text_start: false };
                let shown = format.shown_special().to_vec();
                let mut decoder = StreamDecoder::new(options).showing(shown);
                let mut parser = AnswerParser::new(&format, &prompt, &tools);
                let mut deltas = Vec::new();
                for id in ids {
                    deltas.extend(parser.push(decoder.push(tokenizer, id)));
                }
                deltas.extend(parser.push(decoder.finish()));
                deltas.extend(parser.finish());
                // Checks the order of the deltas and that arguments are JSON.
                let said = join(deltas);
                assert!(
                    said.calls.iter().all(|(name, _)| name == "get_weather"),
                    "{vocab} {syntax}"
                );
            }
        }
    }
}
