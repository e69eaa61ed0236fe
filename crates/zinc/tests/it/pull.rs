//! `zinc model` against the imitation of the Hub: the real program, killed and begun again.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::hub::{FakeHub, content};
use crate::{Outcome, Place};

pub const MIB: usize = 1 << 20;

/// A directory, a Hub, and threads that it runs in.
pub struct Net {
    pub place: Place,
    pub hub: FakeHub,
    _runtime: tokio::runtime::Runtime,
}

impl Net {
    pub fn new() -> Net {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let hub = runtime.block_on(FakeHub::start());
        Net { place: Place::new(), hub, _runtime: runtime }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        command.env("HF_ENDPOINT", self.hub.endpoint());
        command
    }

    /// A shell script that has the program as `$0`.
    #[cfg(unix)]
    pub fn shell(&self, script: &str) -> Command {
        let command = self.command(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_zinc")]);
        shell.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        shell
    }

    pub fn zinc(&self, args: &[&str]) -> Outcome {
        self.command(args).output().unwrap().into()
    }

    /// Begins a run whose output nobody reads.
    fn spawn(&self, args: &[&str]) -> std::process::Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Bytes that unfinished downloads say to have.
    pub fn n_saved(&self) -> u64 {
        crate::hub::n_saved(&self.place.path("zinc"))
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.zinc(args).ok()).unwrap()
    }
}

#[test]
fn killed_at_any_moment_a_pull_goes_on() {
    let net = Net::new();
    let bytes = content(12 * MIB, 21);
    net.hub.put("o/m-GGUF/m-Q4_K_M.gguf", bytes.clone());
    let pull = ["model", "pull", "hf:o/m-GGUF", "--yes"];
    let mut random = 0x5EED_u64;
    for i in 0..10 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // Somewhere before the end of what is missing; the Hub sends so much and no more.
        let n = (random >> 33) % (bytes.len() as u64 - net.n_saved());
        let wanted = net.n_saved() + n;
        net.hub.forget_clients();
        net.hub.reset_sent();
        net.hub.stall_after(n as usize);
        let mut child = net.spawn(&pull);
        // Each third time what came is also written down.
        while net.hub.sent() < n || i % 3 == 0 && net.n_saved() < wanted {
            std::thread::sleep(Duration::from_millis(1));
        }
        // On Unix this is kill -9.
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
    }
    net.hub.forget_stalled();
    assert!(net.n_saved() > 0);
    // Also between the last byte and the end; here the pull may be quicker.
    for n_left in [64 << 10, 0] {
        let n = (bytes.len() as u64 - net.n_saved()).saturating_sub(n_left);
        net.hub.reset_sent();
        let mut child = net.spawn(&pull);
        while net.hub.sent() < n && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let path = net.zinc(&pull).ok();
    assert!(std::fs::read(path.trim()).unwrap() == bytes);
    net.zinc(&["model", "verify"]).ok();
    let left = net.zinc(&["model", "prune", "--dry-run"]);
    assert!(left.stderr.contains("Nothing is left over"), "{}", left.stderr);
}

#[test]
fn what_was_saved_before_a_kill_is_not_fetched_again() {
    let net = Net::new();
    let bytes = content(12 * MIB, 22);
    net.hub.put("o/m-GGUF/m-Q4_K_M.gguf", bytes.clone());
    net.hub.stall_after(5 * MIB);
    let pull = ["model", "pull", "hf:o/m-GGUF", "--yes"];
    let mut child = net.spawn(&pull);
    while net.n_saved() < 5 * MIB as u64 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    net.hub.forget_stalled();
    net.hub.reset_sent();
    let outcome = net.zinc(&pull);
    assert!(outcome.stderr.contains("of it are here"), "{}", outcome.stderr);
    assert!(std::fs::read(outcome.ok().trim()).unwrap() == bytes);
    assert!(net.hub.sent() <= 7 * MIB as u64 + 1, "{}", net.hub.sent());
}

#[cfg(unix)]
#[test]
fn a_full_disk() {
    let net = Net::new();
    let bytes = content(6 * MIB, 23);
    net.hub.put("o/m-GGUF/m-Q4_K_M.gguf", bytes.clone());
    // No file may grow beyond two MiB: for the program that is a full disk.
    let script = "ulimit -f 4096; trap '' XFSZ; exec \"$0\" model pull hf:o/m-GGUF --yes";
    let outcome: Outcome = net.shell(script).output().unwrap().into();
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("the disk is full"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: make room, then pull again"), "{}", outcome.stderr);
    let path = net.zinc(&["model", "pull", "hf:o/m-GGUF", "--yes"]).ok();
    assert!(std::fs::read(path.trim()).unwrap() == bytes);
}

#[test]
fn from_a_name_to_an_answer() {
    let net = Net::new();
    let model = std::fs::read(net.place.path("m.gguf")).unwrap();
    net.hub.put("o/m-GGUF/m-Q4_K_M.gguf", model.clone().into());
    let run = ["run", "-m", "hf:o/m-GGUF", "--temp", "0", "-n", "4", "Hello"];
    let refused = net.zinc(&run);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("hint: zinc model pull hf:o/m-GGUF"), "{}", refused.stderr);
    let with_yes = net.zinc(&[&run[..], &["--yes"]].concat()).ok();
    let from_file = net.zinc(&["run", "-m", "m.gguf", "--temp", "0", "-n", "4", "Hello"]).ok();
    assert_eq!(with_yes, from_file);
    // From now on without a network.
    net.hub.hidden(true);
    assert_eq!(net.zinc(&run).ok(), from_file);
    net.zinc(&["model", "use", "hf:o/m-GGUF"]).ok();
    assert_eq!(net.zinc(&["model", "active"]).ok(), "hf:o/m-GGUF:Q4_K_M\n");
    assert_eq!(net.zinc(&["run", "--temp", "0", "-n", "4", "Hello"]).ok(), from_file);
    let rows = net.json(&["model", "list", "--json"]);
    assert_eq!(rows[0]["name"], "hf:o/m-GGUF:Q4_K_M");
    assert_eq!(rows[0]["active"], true);
    assert_eq!(rows[0]["fit"]["exact"], true, "{rows}");
    let shown = net.json(&["model", "show", "hf:o/m-GGUF", "--json"]);
    assert_eq!(shown["record"]["source"]["revision"], "c0ffee");
    let path = net.zinc(&["model", "path", "hf:o/m-GGUF"]).ok();
    // Damage is found, and mended.
    std::fs::write(path.trim(), &model[..model.len() - 1]).unwrap();
    let damaged = net.zinc(&["model", "verify"]);
    assert_eq!(damaged.code, 1);
    assert!(net.zinc(&run).stderr.contains("--force"));
    net.hub.hidden(false);
    net.zinc(&["model", "pull", "hf:o/m-GGUF", "--force", "--yes"]).ok();
    assert_eq!(net.zinc(&run).ok(), from_file);
    let refused = net.zinc(&["model", "rm", "hf:o/m-GGUF"]);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    net.zinc(&["model", "rm", "hf:o/m-GGUF", "--yes"]).ok();
    let left = net.json(&["model", "list", "--json"]);
    assert!(left.as_array().unwrap().iter().all(|row| row["place"] == "builtin"), "{left}");
    // The active model is gone with it: the built-in one answers.
    assert_eq!(net.zinc(&["model", "active"]).ok(), "zinc-demo\n");
}

#[test]
fn before_the_download() {
    let net = Net::new();
    let model = std::fs::read(net.place.path("m.gguf")).unwrap();
    net.hub.put("o/m-GGUF/m-Q8_0.gguf", model.into());
    let shown = net.json(&["model", "show", "hf:o/m-GGUF", "--json"]);
    assert_eq!(shown["fit"]["exact"], true, "{shown}");
    assert_eq!(shown["record"], Value::Null);
    // The catalog needs no network.
    net.hub.hidden(true);
    let all = net.json(&["model", "list", "--all", "--json"]);
    assert!(all.as_array().unwrap().iter().any(|row| row["name"] == "qwen3-4b"));
    let text = net.zinc(&["model", "search", "coder"]).ok();
    assert!(text.contains("qwen3-coder-30b-a3b"), "{text}");
    let none = net.zinc(&["model", "search", "nothing-like-this"]);
    assert_eq!(none.code, 1);
    let unknown = net.zinc(&["run", "-m", "qwen3-4", "Hi"]);
    assert!(unknown.stderr.contains("did you mean qwen3-4b"), "{}", unknown.stderr);
    let offline = net.zinc(&["model", "show", "qwen3-4b", "--offline"]).ok();
    assert!(offline.contains("Apache-2.0") && offline.contains("unverified"), "{offline}");
}

#[test]
fn imports_and_other_catalogs() {
    let net = Net::new();
    net.zinc(&["model", "import", "m.gguf", "--name", "mine", "--copy"]).ok();
    let answer = net.zinc(&["run", "-m", "mine", "--temp", "0", "-n", "4", "Hello"]).ok();
    assert_eq!(answer, net.zinc(&["run", "-m", "m.gguf", "--temp", "0", "-n", "4", "Hello"]).ok());
    let taken = net.zinc(&["model", "import", "m.gguf", "--name", "mine"]);
    assert!(taken.stderr.contains("is there already"), "{}", taken.stderr);
    net.place.write("list.toml", b"format = 1\ndate = \"2030-01-01\"\nmodel = []\n");
    net.zinc(&["model", "update", "list.toml"]).ok();
    let all = net.json(&["model", "list", "--all", "--json"]);
    let names = all.as_array().unwrap().iter().filter(|row| row["place"] != "builtin");
    assert_eq!(names.map(|row| row["name"].clone()).collect::<Vec<_>>(), ["mine"]);
    net.place.write("bad.toml", b"format = 1\n");
    assert_eq!(net.zinc(&["model", "update", "bad.toml"]).code, 1);
    net.zinc(&["model", "update", "--reset"]).ok();
    assert!(net.json(&["model", "list", "--all", "--json"]).as_array().unwrap().len() > 20);
}

#[test]
fn the_name_of_the_built_in_model_stays_its_own() {
    let net = Net::new();
    let model = std::fs::read(net.place.path("m.gguf")).unwrap();
    net.place.write("Zinc-Demo.gguf", &model);
    for mode in [&[][..], &["--link"], &["--copy"], &["--name", "zinc-demo"]] {
        let refused = net.zinc(&[&["model", "import", "Zinc-Demo.gguf"], mode].concat());
        assert_eq!(refused.code, 1, "{mode:?}");
        let stderr = &refused.stderr;
        assert!(stderr.contains("part of the program") && stderr.contains("--name"), "{stderr}");
    }
    net.zinc(&["model", "import", "Zinc-Demo.gguf", "--link", "--name", "mine"]).ok();
    let rows = net.json(&["model", "list", "--json"]);
    let places = |name: &str| -> Vec<&Value> {
        let rows = rows.as_array().unwrap().iter().filter(|row| row["name"] == name);
        rows.map(|row| &row["place"]).collect()
    };
    assert_eq!(places("mine"), [&Value::from("installed")], "{rows}");
    assert!(places("zinc-demo").iter().all(|place| **place == "builtin"), "{rows}");
}

#[test]
#[cfg(feature = "builtin-model")]
fn the_built_in_model_is_a_model_like_others() {
    let place = crate::Place::new();
    let rows = place.zinc(&["model", "list", "--json"]).json();
    assert_eq!(rows.as_array().unwrap().len(), 1, "{rows}");
    assert_eq!(
        [&rows[0]["name"], &rows[0]["place"], &rows[0]["active"]],
        [&Value::from("zinc-demo"), &Value::from("builtin"), &Value::from(true)],
    );
    assert!(place.zinc(&["model", "list"]).ok().contains("* zinc-demo"));
    let shown = place.zinc(&["model", "show", "zinc-demo", "--json"]).json();
    assert_eq!([&shown["name"], &shown["builtin"]], [&rows[0]["name"], &Value::from(true)]);
    assert_eq!(shown["size_bytes"], rows[0]["size_bytes"]);
    assert_eq!(shown["fit"]["exact"], true, "{shown}");
    assert!(place.zinc(&["model", "show", "zinc-demo"]).ok().contains("part of the program"));
    for args in [&["path", "zinc-demo"][..], &["rm", "zinc-demo", "--yes"]] {
        let refused = place.zinc(&[&["model"], args].concat());
        assert_eq!((refused.code, &refused.stdout[..]), (1, &b""[..]), "{args:?}");
        assert!(refused.stderr.contains("zinc-demo is part of the program"), "{}", refused.stderr);
    }
    // What `active` prints is what `use` and -m take.
    place.zinc(&["model", "import", "m.gguf", "--name", "mine"]).ok();
    place.zinc(&["model", "use", "mine"]).ok();
    let active = place.zinc(&["model", "active", "--json"]).json();
    assert_eq!(active, serde_json::json!({ "active": "mine", "builtin": false }));
    place.zinc(&["model", "use", "zinc-demo"]).ok();
    let active = place.zinc(&["model", "active", "--json"]).json();
    assert_eq!(active, serde_json::json!({ "active": "zinc-demo", "builtin": true }));
    let name = place.zinc(&["model", "active"]).ok();
    place.zinc(&["tokenize", "-m", name.trim(), "Hi"]).ok();
}
