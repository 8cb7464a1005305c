//! Chromium driven by its DevTools protocol, over a pair of pipes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use margay_lab::{NetNs, Process, eventually, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser::ALONE;
use crate::rig::SOON;

/// A browser with one page open. Dropping it ends it.
pub(crate) struct Devtools {
    _process: Process,
    _profile: TempDir,
    to: File,
    from: Receiver<Value>,
    session: String,
    last: u64,
}

/// A named pipe, open at both ends so that nobody waits for the other.
fn pipe(path: &Path) -> Result<File> {
    run(Command::new("mkfifo").arg(path))?;
    Ok(File::options().read(true).write(true).open(path)?)
}

impl Devtools {
    /// Opens a page in a browser inside a host.
    pub(crate) fn open(host: &NetNs, url: &str) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let (to_name, from_name) = (profile.path().join("to"), profile.path().join("from"));
        let (to, answers) = (pipe(&to_name)?, pipe(&from_name)?);
        let mut command = host.command("sh");
        command.args([
            "-c",
            "exec chromium \"$@\" 3<\"$TO\" 4>\"$FROM\"",
            "chromium",
        ]);
        command.env("TO", &to_name).env("FROM", &from_name);
        command.args(ALONE).arg("--remote-debugging-pipe");
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        let log = profile.path().join("log");
        let process = Process::spawn("chromium", command, None, &log)?;
        let (sender, from) = channel();
        // Ends with the test's process: a pipe that is open at both ends does not.
        thread::spawn(move || {
            let mut messages = BufReader::new(answers).split(0);
            while let Some(Ok(message)) = messages.next() {
                let message = serde_json::from_slice(&message).unwrap_or_default();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut devtools = Self {
            _process: process,
            _profile: profile,
            to,
            from,
            session: String::new(),
            last: 0,
        };
        let target = devtools.call("Target.createTarget", json!({"url": url}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = devtools.call("Target.attachToTarget", attach)?;
        let session = attached["sessionId"].as_str().context("no session")?;
        devtools.session = session.to_owned();
        Ok(devtools)
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes())?;
        loop {
            let answer = self.from.recv_timeout(SOON);
            let answer = answer.with_context(|| format!("{method}: no answer"))?;
            if answer["id"] == self.last {
                ensure!(answer["error"].is_null(), "{method}: {answer}");
                return Ok(answer["result"].clone());
            }
        }
    }

    /// What an expression of JavaScript gives on the page.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let params = json!({"expression": expression, "returnByValue": true});
        let result = self.call("Runtime.evaluate", params)?;
        if !result["exceptionDetails"].is_null() {
            bail!("{expression}: {result}");
        }
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is as wanted.
    pub(crate) fn await_value(&mut self, expression: &str, wanted: &Value) -> Result<()> {
        eventually(SOON, &format!("{expression} is {wanted}"), || {
            let found = self.evaluate(expression)?;
            ensure!(found == *wanted, "it is {found}");
            Ok(())
        })
    }

    /// Shows the page in a window of this width to somebody who likes it dark, or light.
    pub(crate) fn look(&mut self, width: u32, scheme: &str) -> Result<()> {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size)?;
        let wish = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        let media = json!({"features": wish});
        self.call("Emulation.setEmulatedMedia", media).map(drop)
    }

    /// What the window shows, as PNG.
    pub(crate) fn picture(&mut self) -> Result<Vec<u8>> {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}))?;
        let data = shot["data"].as_str().context("no picture")?;
        Ok(BASE64_STANDARD.decode(data)?)
    }

    /// Presses a key and lets it go.
    pub(crate) fn press(&mut self, key: &str) -> Result<()> {
        // What a key does by itself (Tab, Enter) depends on its number, what it writes on its text.
        let number = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowLeft" => 37,
            "ArrowRight" => 39,
            _ => 0,
        };
        let text = match key {
            "Enter" => Some("\r"),
            key if key.chars().count() == 1 => Some(key),
            _ => None,
        };
        let mut event = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": number});
        if let Some(text) = text {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event)?;
        let event = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": number});
        self.call("Input.dispatchKeyEvent", event).map(drop)
    }
}
