//! `cargo xtask clients`: real clients, from their registries and unmodified, against a live server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::install;
use crate::server::Server;

/// The key that clients send.
const KEY: &str = "test-key";
/// Scripts and versions, relative to the root.
const SCRIPTS: &str = "crates/zinc-server/clients";
/// Programs that have to be there, with the Debian package that brings each.
const PROGRAMS: [(&str, &[&str], &str); 4] = [
    ("python3", &["-c", "import venv, ensurepip"], "python3-venv"),
    ("node", &["--version"], "nodejs"),
    ("npm", &["--version"], "npm"),
    ("curl", &["--version"], "curl"),
];
/// Random requests that schemathesis makes to each route.
const N_EXAMPLES: &str = "5";

/// Installs the clients under `target/clients` and runs each; prints what failed and returns whether
/// nothing did.
pub fn run(root: &Path) -> Result<bool> {
    check_programs()?;
    let folder = root.join("target/clients");
    std::fs::create_dir_all(&folder)?;
    let scripts = root.join(SCRIPTS);
    let (python, node) = std::thread::scope(|scope| {
        let node = scope.spawn(|| install_node(&scripts, &folder));
        (install_python(&scripts, &folder), node.join())
    });
    let venv = python?;
    let node_folder = node.map_err(|_| anyhow::anyhow!("npm panicked"))??;
    let server = Server::start(root, &["--api-key", KEY, "--log-level", "warn"])?;
    let mut clean = true;
    let python = venv.join("bin/python");
    for name in ["openai_client.py", "anthropic_client.py", "langchain_client.py"] {
        clean &= step(name, Command::new(&python).arg(scripts.join(name)), &server)?;
    }
    // Node looks for packages beside the script.
    let script = node_folder.join("openai_client.mjs");
    std::fs::copy(scripts.join("openai_client.mjs"), &script)?;
    clean &= step("openai_client.mjs", Command::new("node").arg(script), &server)?;
    clean &= step("curl.sh", Command::new("sh").arg(scripts.join("curl.sh")), &server)?;
    server.terminate()?;
    clean &= schemathesis(root, &venv, &scripts)?;
    Ok(clean)
}

/// Requests made from the OpenAPI document, to a server whose answers are short: its examples, which must
/// work; then each bound of each field, random requests, and responses followed along the links.
fn schemathesis(root: &Path, venv: &Path, scripts: &Path) -> Result<bool> {
    let config = scripts.join("short.toml");
    let config = config.to_str().context("the path is not UTF-8")?;
    let flags = ["--api-key", KEY, "--log-level", "warn", "--config", config, "--ctx", "64"];
    let server = Server::start(root, &flags)?;
    let mut clean = true;
    // A positive body may still be refused: a table cannot say that a conversation fits the context.
    let not_all = ["--exclude-checks", "positive_data_acceptance"];
    for (phases, checks) in [("examples", &[][..]), ("coverage,fuzzing,stateful", &not_all)] {
        let mut command = Command::new(venv.join("bin/st"));
        // It keeps notes in the folder that it runs in.
        command.current_dir(root.join("target/clients"));
        command.arg("--config-file").arg(scripts.join("schemathesis.toml"));
        command.arg("run").arg(format!("{}/openapi.json", server.url())).args(checks);
        command.args(["--header", &format!("Authorization: Bearer {KEY}")]);
        command.args(["--phases", phases, "--max-examples", N_EXAMPLES, "--seed", "1"]);
        // With several workers, Python 3.11 fails now and then in its own parser: "AST constructor
        // recursion depth mismatch".
        command.args(["--workers", "1", "--request-timeout", "60", "--no-color"]);
        command.args(["--suppress-health-check", "all"]);
        clean &= step(&format!("schemathesis, {phases}"), &mut command, &server)?;
    }
    server.terminate()?;
    Ok(clean)
}

fn check_programs() -> Result<()> {
    let is_missing = |(program, arguments, _): &&(&str, &[&str], &str)| {
        let run = Command::new(program).args(*arguments).output();
        !run.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<_> =
        PROGRAMS.iter().filter(is_missing).map(|(.., package)| *package).collect();
    ensure!(missing.is_empty(), "missing programs; hint: apt-get install {}", missing.join(" "));
    Ok(())
}

/// A virtual environment with the pinned packages; made anew when they change.
fn install_python(scripts: &Path, folder: &Path) -> Result<PathBuf> {
    let venv = folder.join("venv");
    let requirements = std::fs::read_to_string(scripts.join("requirements.txt"))?;
    install::python_packages(&venv, &requirements)?;
    Ok(venv)
}

/// A folder with the pinned packages for node.
fn install_node(scripts: &Path, folder: &Path) -> Result<PathBuf> {
    let node = folder.join("node");
    let wanted = std::fs::read_to_string(scripts.join("package.json"))?;
    if install::is_current(&node, &wanted) {
        return Ok(node);
    }
    println!("installing node packages");
    std::fs::create_dir_all(&node)?;
    std::fs::write(node.join("package.json"), &wanted)?;
    let mut command = Command::new("npm");
    command.current_dir(&node).args(["install", "--silent", "--no-audit", "--no-fund"]);
    install::finish(&mut command)?;
    install::mark_current(&node, &wanted)?;
    Ok(node)
}

/// Runs one client; what it prints is shown if it fails.
fn step(name: &str, command: &mut Command, server: &Server) -> Result<bool> {
    let begin = Instant::now();
    command.env("ZINC_URL", server.url()).env("ZINC_KEY", KEY);
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    let seconds = begin.elapsed().as_secs_f64();
    if output.status.success() {
        println!("{name}: ok ({seconds:.0} s)");
        return Ok(true);
    }
    println!("{name}: FAILED ({seconds:.0} s)");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    println!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(false)
}
