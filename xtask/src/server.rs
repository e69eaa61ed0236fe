//! A `zinc serve` of our own, as a process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// How long a server may take to load, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Builds zinc and starts a server with the built-in model on a free port; returns when it is
    /// ready.
    pub fn start(root: &Path, flags: &[&str]) -> Result<Server> {
        let build = ["build", "--quiet", "--package", "zinc"];
        let status = Command::new(env!("CARGO")).args(build).current_dir(root).status();
        ensure!(status.context("cannot run cargo")?.success(), "zinc does not build");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
        let mut command = Command::new(target.join("debug/zinc"));
        command.args(["serve", "--port", "0"]).args(flags).stderr(Stdio::piped());
        // Clients try every route: they must not find this user's models.
        command.env("ZINC_HOME", target.join("tmp/zinc-home"));
        let mut child = command.spawn().context("cannot start zinc serve")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut address = None;
        for line in lines.by_ref() {
            let line = line?;
            if let Some(rest) = line.split("listens on http://").nth(1) {
                let text = rest.split(' ').next().unwrap_or_default();
                address = Some(text.parse().with_context(|| line.clone())?);
            }
            if line.starts_with("ready: ") {
                break;
            }
        }
        // The log goes on; a full pipe would stop the server.
        std::thread::spawn(move || {
            lines.for_each(|line| drop(line.map(|line| eprintln!("{line}"))))
        });
        let address = address.context("zinc serve ended before it listened")?;
        Ok(Server { child, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its memory in bytes: resident pages of its own.
    pub fn resident_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).context(path)?;
        let line = text.lines().find(|line| line.starts_with("RssAnon:")).context("no RssAnon")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib << 10)
    }

    /// Tells it to end, as a service manager does.
    pub fn tell_to_end(&self) -> Result<()> {
        let kill = format!("kill -TERM {}", self.child.id());
        let status = Command::new("sh").args(["-c", &kill]).status().context("cannot run sh")?;
        ensure!(status.success(), "cannot send SIGTERM");
        Ok(())
    }

    /// Waits until it has ended by itself, and without an error.
    pub fn wait(mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "zinc serve ended with {status}");
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "zinc serve does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tells it to end and waits.
    pub fn terminate(self) -> Result<()> {
        self.tell_to_end()?;
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
