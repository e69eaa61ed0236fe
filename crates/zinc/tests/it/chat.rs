//! `chat` with its input from a pipe.

use crate::{Place, read};

const CHAT: [&str; 7] = ["chat", "-m", "m.gguf", "--temp", "0", "-n", "6"];

#[test]
fn a_conversation() {
    let place = Place::new();
    let input =
        "Hello\nAnd \\\nmore\n\"\"\"a\n\nb\"\"\"\n/save talk.json\n/save talk.json\n/quit\nnever\n";
    let outcome = place.zinc_with(&CHAT, input.as_bytes());
    assert!(outcome.stderr.contains("Saved 6 messages"), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("error: talk.json"),
        "it never writes over a file: {}",
        outcome.stderr
    );
    assert_eq!(outcome.code, 1, "one file was not written");
    let text = String::from_utf8(outcome.stdout).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&read(&place.path("talk.json"))).unwrap();
    let messages = saved["messages"].as_array().unwrap();
    let said: Vec<_> = messages.iter().step_by(2).map(|message| &message["content"]).collect();
    assert_eq!(said, ["Hello", "And \nmore", "a\n\nb"]);
    for answer in messages.iter().skip(1).step_by(2) {
        assert_eq!(answer["role"], "assistant");
        assert!(text.contains(answer["content"].as_str().unwrap()));
    }
    let alone = place.zinc(&["run", "-m", "m.gguf", "--temp", "0", "-n", "6", "Hello"]).ok();
    assert_eq!(messages[1]["content"], alone.trim_end_matches('\n'), "a chat answers as run does");
}

#[test]
fn commands() {
    let place = Place::new();
    let input = "/help\n/fly\n/temp\n/temp 0.5\n/temp hot\n/temp -3\n/system\n/system Be brief.\n/system\n/think on\n\
                 /retry\n/stats\nHi\n/retry\n/stats\n/clear\n/save t.txt\n/save\n";
    let outcome = place.zinc_with(&CHAT, input.as_bytes());
    for part in [
        "/save FILE",
        "no command /fly",
        "temperature is 0.\n",
        "temperature is 0.5.\n",
        "\"hot\" is no number",
        "temperature is -3",
        "There is no system message.",
        "conversation starts anew",
        "Be brief.",
        "no switch for thinking",
        "no answer to replace",
        "There is no answer yet.",
        "ended by the token limit",
        "of them cached",
        "forgotten",
        "Saved 1 messages",
        "no file is named",
    ] {
        assert!(outcome.stderr.contains(part), "{part:?} is not in: {}", outcome.stderr);
    }
    assert_eq!(outcome.code, 1, "some of the commands were none");
    assert_eq!(read(&place.path("t.txt")), "## system\n\nBe brief.\n\n");
}

#[test]
fn a_full_context_is_told_and_survived() {
    let place = Place::new();
    let long = "x".repeat(200);
    let input = format!("{long}\n/clear\nHi\n");
    let outcome = place.zinc_with(&[&CHAT[..], &["--ctx", "100"]].concat(), input.as_bytes());
    assert!(outcome.stderr.contains("the context holds 100"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("/clear"), "{}", outcome.stderr);
    assert!(!outcome.stdout.is_empty());
    assert_eq!(outcome.code, 1, "one of the messages was not answered");
    let args = ["chat", "-m", "m.gguf", "--temp", "0", "--ctx", "60", "--logit-bias", "257=-inf"];
    let outcome = place.zinc_with(&args, b"Hi\n");
    assert!(outcome.stderr.contains("The context of 60 tokens is full"), "{}", outcome.stderr);
    outcome.ok();
    let args =
        ["run", "-m", "m.gguf", "--temp", "0", "--ctx", "60", "--logit-bias", "257=-inf", "Hi"];
    let outcome = place.zinc(&args);
    assert!(outcome.stderr.contains("the context of 60 tokens is full"), "{}", outcome.stderr);
}
