//! `docs/cli.md`, written from the definition of the commands, so that it cannot lag behind them.

#![cfg(test)]

use std::{fmt::Write as _, path::Path};

use clap::{Arg, Command};

const HEAD: &str = "\
# The command line

Generated from the commands themselves: `UPDATE=1 cargo test -p strandline-broker cli_page`.

Every command takes `--bootstrap HOST:PORT[,..]` (default `127.0.0.1:9290`; the variable
`STRANDLINE_BOOTSTRAP` sets it too) and `--help`. Errors are one line on standard error, with a
hint; exit codes are 0 for success, 1 for failure, 2 for wrong use.
";

fn page() -> String {
    let mut page = String::from(HEAD);
    let mut root = super::command();
    root.build();
    for command in root.get_subcommands() {
        describe(&mut page, command, "strandline");
    }
    page
}

fn describe(page: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    if command.has_subcommands() {
        for subcommand in command.get_subcommands() {
            describe(page, subcommand, &name);
        }
        return;
    }
    let about = command.get_long_about().or_else(|| command.get_about());
    let mut usage = format!("{name} [OPTIONS]");
    let positionals: Vec<&Arg> = command.get_positionals().collect();
    for argument in &positionals {
        let dots = if argument
            .get_num_args()
            .is_some_and(|range| range.max_values() > 1)
        {
            "..."
        } else {
            ""
        };
        write!(usage, " {}{dots}", value_name(argument)).unwrap();
    }
    write!(page, "\n## `{usage}`\n\n").unwrap();
    if let Some(about) = about {
        writeln!(page, "{}\n", sentence(&about.to_string())).unwrap();
    }
    page.push_str("| argument | meaning |\n|---|---|\n");
    for argument in positionals {
        row(page, &format!("`{}`", value_name(argument)), argument);
    }
    for argument in command
        .get_arguments()
        .filter(|argument| !argument.is_positional())
    {
        row(page, &option(argument), argument);
    }
    if let Some(examples) = command.get_after_help() {
        write!(page, "\n```text\n{examples}\n```\n").unwrap();
    }
}

fn option(argument: &Arg) -> String {
    let long = argument.get_long().unwrap_or_default();
    if argument.get_action().takes_values() {
        format!("`--{long} {}`", value_name(argument))
    } else {
        format!("`--{long}`")
    }
}

fn row(page: &mut String, shown: &str, argument: &Arg) {
    let id = argument.get_id().as_str();
    if argument.is_global_set() || id == "help" || id == "version" {
        return;
    }
    let help = argument
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let default = argument
        .get_default_values()
        .first()
        .and_then(|value| value.to_str());
    let help = sentence(&help);
    write!(page, "| {} | {help}", shown.replace('|', "\\|")).unwrap();
    if !values.is_empty() && argument.get_action().takes_values() {
        write!(page, " One of {}.", values.join(", ")).unwrap();
    }
    if let Some(default) = default.filter(|_| argument.get_action().takes_values()) {
        write!(page, " Default: `{default}`.").unwrap();
    }
    page.push_str(" |\n");
}

/// clap takes the full stop away from one-line texts.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with('.') {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

fn value_name(argument: &Arg) -> String {
    argument
        .get_value_names()
        .and_then(|names| names.first())
        .map_or_else(String::new, ToString::to_string)
}

#[test]
fn the_cli_page_is_what_the_commands_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/cli.md is out of date: UPDATE=1 cargo test -p strandline-broker cli_page"
    );
}
