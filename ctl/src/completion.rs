//! The command line for shells, for manuals, and for kubectl, all from the definitions that it is
//! parsed with.

use std::path::Path;

use clap::builder::PossibleValuesParser;
use clap::{Args, Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use margay_model::kind::Kind;

use crate::cli::Cli;
use crate::context::Streams;
use crate::failure::Fatal;
use crate::output;

/// What we are called; what kubectl runs as its plugin; what it asks for completions.
pub(crate) const NAME: &str = "margayctl";
const PLUGIN: &str = "kubectl-margay";
const PLUGIN_NAME: &str = "kubectl margay";
const PLUGIN_COMPLETION: &str = "kubectl_complete-margay";

/// Verbs whose first word is a kind.
const OF_KINDS: [&str; 4] = ["get", "delete", "patch", "label"];

/// Says to kubectl that files are no candidates.
const NO_FILES: &str = ":4";

pub(crate) const COMPLETION_HELP: &str = "\
Examples:
  source <(margayctl completion bash)
  margayctl completion zsh > _margayctl
  margayctl completion fish > margayctl.fish

bash: put that line into ~/.bashrc, or the output into /usr/share/bash-completion/completions/margayctl.
zsh: put the file into a folder of $fpath. fish: into ~/.config/fish/completions.
As a plugin of kubectl, link the program to kubectl-margay, and to kubectl_complete-margay for
completion, both in a folder of $PATH.";

pub(crate) const MAN_HELP: &str = "\
Example:
  margayctl man man1 && ls man1/margayctl-get.1

Then for example: install -Dm644 -t /usr/local/share/man/man1 man1/*";

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: KnownShell,
}

/// Shells that completion is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

/// The command line as it is called: by its own name, or as a plugin of kubectl.
pub(crate) fn command(called: &str) -> Command {
    let command = Cli::command();
    if file_name(called) == PLUGIN {
        return renamed(command).bin_name(PLUGIN_NAME);
    }
    command
}

/// The candidates for the last word, if this is what we were called for.
pub(crate) fn asked_by_kubectl(args: &[String]) -> Option<String> {
    let (called, words) = args.split_first()?;
    if file_name(called) != PLUGIN_COMPLETION {
        return None;
    }
    let lines = candidates(words).into_iter().chain([NO_FILES.to_owned()]);
    Some(lines.map(|line| line + "\n").collect())
}

fn file_name(path: &str) -> &str {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    name.unwrap_or_default()
}

/// With examples that can be typed as they are.
fn renamed(command: Command) -> Command {
    let help = command
        .get_after_help()
        .map(|help| help.to_string().replace(NAME, PLUGIN_NAME));
    let command = command.mut_subcommands(renamed);
    match help {
        Some(help) => command.after_help(help),
        None => command,
    }
}

/// The command line with everything that shells may offer: kinds, and ways to print. Parsing takes
/// more than these.
fn offering() -> Command {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
    let outputs: Vec<_> = output::WORDS
        .iter()
        .chain(&output::WITH_VALUE)
        .copied()
        .collect();
    // In place: what is taken out and put back comes last.
    let values = |sub: Command, id: &str, values: &[&'static str]| {
        sub.mut_args(|arg| match arg.get_id() == id {
            true => arg.value_parser(PossibleValuesParser::new(values.to_vec())),
            false => arg,
        })
    };
    let mut command = Cli::command();
    for verb in OF_KINDS {
        command = command.mut_subcommand(verb, |sub| values(sub, "kind", &kinds));
    }
    command.mut_subcommand("get", |sub| values(sub, "output", &outputs))
}

/// What may stand in the place of the last word.
fn candidates(words: &[String]) -> Vec<String> {
    let root = offering();
    let mut command = &root;
    let (last, before) = match words.split_last() {
        Some((last, before)) => (last.as_str(), before),
        None => ("", words),
    };
    let mut positions = 0;
    let mut wants = None;
    for word in before {
        if wants.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            wants = flag(command, word).filter(|arg| arg.get_action().takes_values());
        } else if let Some(sub) = command.find_subcommand(word) {
            (command, positions) = (sub, 0);
        } else {
            positions += 1;
        }
    }
    let values = |arg: &clap::Arg| -> Vec<String> {
        arg.get_possible_values()
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect()
    };
    let mut found = match wants {
        Some(arg) => values(arg),
        None if last.starts_with('-') => {
            let flags = command.get_arguments().filter_map(|arg| arg.get_long());
            flags.map(|flag| format!("--{flag}")).collect()
        }
        None => {
            let subs = command.get_subcommands().filter(|sub| !sub.is_hide_set());
            let mut found: Vec<_> = subs.map(|sub| sub.get_name().to_owned()).collect();
            found.extend(
                command
                    .get_positionals()
                    .nth(positions)
                    .map(values)
                    .unwrap_or_default(),
            );
            found
        }
    };
    found.retain(|candidate| candidate.starts_with(last));
    found
}

fn flag<'c>(command: &'c Command, word: &str) -> Option<&'c clap::Arg> {
    command
        .get_arguments()
        .find(|arg| match word.strip_prefix("--") {
            Some(long) => arg.get_long() == Some(long),
            None => arg
                .get_short()
                .is_some_and(|short| word[1..] == short.to_string()),
        })
}

/// Prints the completion of a shell.
pub(crate) fn completion(args: &Completion, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let shell = match args.shell {
        KnownShell::Bash => Shell::Bash,
        KnownShell::Zsh => Shell::Zsh,
        KnownShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut offering(), NAME, &mut script);
    if args.shell == KnownShell::Fish {
        // What is generated for fish offers values of flags only.
        let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        for verb in OF_KINDS {
            let when = format!("__fish_{NAME}_using_subcommand {verb}");
            let line = format!(
                "complete -c {NAME} -n \"{when}\" -f -a \"{}\"\n",
                kinds.join(" ")
            );
            script.extend_from_slice(line.as_bytes());
        }
    }
    Ok(streams.stdout.write_all(&script)?)
}

/// Writes a page for each command.
pub(crate) fn man(folder: &Path, streams: &mut Streams<'_>) -> Result<(), Fatal> {
    let failed = |error: std::io::Error| Fatal::Refused(format!("{}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    let pages = std::fs::read_dir(folder).map_err(failed)?.count();
    streams.say(&format!("{}: {pages} pages", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Vec<String> {
        candidates(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn kubectl_gets_candidates_for_the_last_word() {
        assert_eq!(asked("ge"), ["get"]);
        assert_eq!(asked("get ippo"), ["ippools"]);
        assert_eq!(asked("get -n prod networkp"), ["networkpolicies"]);
        assert_eq!(asked("get pools -o y"), ["yaml"]);
        assert_eq!(asked("node ch"), ["checksystem"]);
        assert_eq!(asked("completion "), ["bash", "zsh", "fish"]);
        assert_eq!(asked("get --all-n"), ["--all-namespaces"]);
        assert_eq!(asked("get ippools some-na"), Vec::<String>::new());
        let args = ["/usr/bin/kubectl_complete-margay", "get", "bgpp"].map(str::to_owned);
        assert_eq!(asked_by_kubectl(&args).unwrap(), "bgppeers\n:4\n");
        assert_eq!(asked_by_kubectl(&["margayctl".to_owned()]), None);
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
        offering().debug_assert();
        command("/usr/bin/kubectl-margay").debug_assert();
    }
}
