//! `margay-cni`, the CNI plugin: hands the runtime's call to the agent and prints the answer.
//!
//! It decides nothing but what must hold without an agent: VERSION is answered here, and a DEL that the
//! agent cannot take is written to a journal that the agent replays, so that deleting a container never
//! fails for want of an agent. It holds no credentials and links no runtime. Called by a person, it installs itself.

mod install;
mod memory;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use margay_api::cni::{CniError, CniReply, CniRequest, Header, code, version_reply};
use margay_api::{DEFAULT_JOURNAL, DEFAULT_SOCKET, Reply, Request};

use install::{Install, USAGE};
use memory::Piece;

#[global_allocator]
static MEMORY: Piece = Piece::new();

/// How long the agent may take; runtimes give a sandbox two minutes or more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// What answers a call when the configuration names no version.
const NEWEST: &str = "1.1.0";

/// This program, also after its file was replaced.
const OWN: &str = "/proc/self/exe";

/// Room for a usual configuration or answer, in bytes: read in one go.
const USUAL_BYTES: usize = 4096;

fn main() -> ExitCode {
    // A runtime passes no arguments.
    let mut words = env::args().skip(1);
    if let Some(verb) = words.next() {
        return by_hand(&verb, words);
    }
    let reply = run();
    let mut out = io::stdout().lock();
    let printed = out
        .write_all(reply.stdout.as_bytes())
        .and_then(|()| out.flush());
    match printed {
        Ok(()) => ExitCode::from(reply.exit),
        Err(_) => ExitCode::FAILURE,
    }
}

/// What people call it for.
fn by_hand(verb: &str, words: impl Iterator<Item = String>) -> ExitCode {
    let (text, code) = match verb {
        "install" => match Install::parse(words).map(|install| install.run(Path::new(OWN))) {
            Ok(Ok(lines)) => (lines.join("\n") + "\n", 0),
            Ok(Err(why)) => (format!("margay-cni install: {why}\n"), 1),
            Err(wrong) => (format!("margay-cni install: {wrong}\n"), 2),
        },
        "--version" => (format!("margay-cni {}\n", env!("CARGO_PKG_VERSION")), 0),
        "--help" | "-h" => (USAGE.to_owned(), 0),
        other => (
            format!("margay-cni: unknown argument {other:?}, see margay-cni --help\n"),
            2,
        ),
    };
    let mut out: Box<dyn Write> = match code {
        0 => Box::new(io::stdout()),
        _ => Box::new(io::stderr()),
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> CniReply {
    let mut config = String::with_capacity(USUAL_BYTES);
    let read = io::stdin().lock().read_to_string(&mut config);
    let var = |name: &str| {
        env::var_os(name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let command = var("CNI_COMMAND");
    if command == "VERSION" {
        return version_reply(&config);
    }
    if let Err(e) = read {
        let error = CniError::new(code::IO_FAILURE, "cannot read the configuration from stdin");
        return error.with_details(e.to_string()).reply(NEWEST);
    }
    let request = CniRequest {
        command,
        container_id: var("CNI_CONTAINERID"),
        netns: var("CNI_NETNS"),
        ifname: var("CNI_IFNAME"),
        args: var("CNI_ARGS"),
        path: var("CNI_PATH"),
        config,
    };
    if let Err(error) = request.check_environment() {
        return error.reply(NEWEST);
    }
    let header = match Header::parse(&request.config) {
        Ok(header) => header,
        Err((version, error)) => return error.reply(&version),
    };
    let socket = header.socket.as_deref().unwrap_or(DEFAULT_SOCKET);
    let request = Request::Cni(request);
    match call(Path::new(socket), &request) {
        Ok(Reply::Ok(reply)) => reply,
        Ok(Reply::Error(msg)) => {
            CniError::new(code::TRY_AGAIN_LATER, msg).reply(&header.cni_version)
        }
        Err(e) => without_agent(request, &header, socket, &e),
    }
}

/// One request, one answer, over the agent's socket.
fn call(socket: &Path, request: &Request) -> io::Result<Reply<CniReply>> {
    let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
    line.push(b'\n');
    // Last, so that the agent finds the request when it accepts, and need not come back for it.
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&line)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut answer = String::with_capacity(USUAL_BYTES);
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the agent closed the connection",
        ));
    }
    serde_json::from_str(&answer).map_err(io::Error::other)
}

/// The agent did not answer: a DEL is journalled and succeeds, anything else says so.
fn without_agent(request: Request, header: &Header, socket: &str, e: &io::Error) -> CniReply {
    let Request::Cni(request) = request else {
        return CniReply::done();
    };
    let journal = Path::new(header.journal.as_deref().unwrap_or(DEFAULT_JOURNAL));
    let details = format!("agent socket {socket}: {e}");
    match request.command.as_str() {
        "DEL" => match write_journal(journal, &request) {
            Ok(()) => CniReply::done(),
            Err(e) => CniError::new(
                code::IO_FAILURE,
                "agent is down and DEL cannot be journalled",
            )
            .with_details(format!("{details}; journal {}: {e}", journal.display()))
            .reply(&header.cni_version),
        },
        "STATUS" => CniError::new(code::NOT_AVAILABLE, "the agent does not answer")
            .with_details(details)
            .reply(&header.cni_version),
        _ => CniError::new(code::TRY_AGAIN_LATER, "the agent does not answer")
            .with_details(details)
            .reply(&header.cni_version),
    }
}

/// Written aside and renamed, so that the agent never reads half an entry.
fn write_journal(dir: &Path, request: &CniRequest) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let target = dir.join(request.journal_file());
    let aside = dir.join(format!(
        ".{}.{}",
        request.journal_file(),
        std::process::id()
    ));
    let mut file = fs::File::create(&aside)?;
    file.write_all(&serde_json::to_vec(request).map_err(io::Error::other)?)?;
    file.sync_all()?;
    fs::rename(&aside, &target)?;
    fs::File::open(dir)?.sync_all()
}
