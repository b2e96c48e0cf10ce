//! `freehold profile`: what this machine is, and which roles suit it.

use super::lines::agree;
use super::{Globals, print_json, show};
use crate::folder::Folder;
use crate::profile::{self, Advice, Facts, RoleAdvice, roles};
use clap::ValueEnum;
use protocol::wire::manifest::Role;
use serde_json::json;
use std::process::ExitCode;

/// Arguments of `freehold profile`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold profile                            look and advise, change nothing
  freehold profile --write                    ask, then put the recommended roles into freehold.toml
  freehold profile --roles client,host        put exactly these there, without asking
  freehold profile --json --raw               for scripts, with the figures

It looks at cores, memory, disk and GPUs and runs the real kernels for some
seconds. It prints bands, not serial numbers, and sends nothing anywhere. No role
is ever enabled silently: `freehold up` takes what freehold.toml names.")]
pub struct Args {
    /// Put the recommended roles into freehold.toml, after asking
    #[arg(long, conflicts_with = "roles")]
    write: bool,
    /// Put these roles into freehold.toml
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROLES")]
    roles: Vec<RoleArg>,
    /// Show the measured figures, not only bands
    #[arg(long)]
    raw: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    Client,
    Host,
    Validator,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Client => Role::Client,
            RoleArg::Host => Role::Host,
            RoleArg::Validator => Role::Validator,
        }
    }
}

/// Runs it.
///
/// # Errors
/// Where the settings cannot be written.
pub async fn run(args: Args, globals: &Globals) -> anyhow::Result<ExitCode> {
    let folder = globals.folder()?;
    if !args.roles.is_empty() {
        let chosen: Vec<Role> = args.roles.iter().copied().map(Role::from).collect();
        return write(&folder, &chosen, globals.json);
    }
    let dir = if folder.dir().is_dir() {
        folder.dir().to_owned()
    } else {
        std::env::temp_dir()
    };
    let quiet = globals.json;
    let measured = tokio::task::spawn_blocking(move || {
        profile::measure(&dir, &mut |step| {
            if !quiet {
                eprintln!("{step} …");
            }
        })
    });
    let facts = measured.await?;
    let table = profile::advise(&facts);
    let recommended = roles::recommended(&table);
    if globals.json {
        let raw = args.raw.then_some(&facts);
        print_json(
            &json!({"bands": profile::bands(&facts), "roles": table, "recommended": recommended, "raw": raw}),
        )?;
    } else {
        print(&facts, &table, args.raw);
    }
    if !args.write {
        return Ok(ExitCode::SUCCESS);
    }
    let question = format!(
        "Put roles = [{}] into {}?",
        show::roles(&recommended),
        folder.config_path().display()
    );
    if !agree(&question, "--roles (with the roles you want)").await? {
        return Ok(ExitCode::FAILURE);
    }
    write(&folder, &recommended, globals.json)
}

fn print(facts: &Facts, table: &[RoleAdvice], raw: bool) {
    println!("{}", profile::bands(facts).join("  "));
    if let Some(reason) = &facts.gpu_reason {
        println!("no GPU: {reason}");
    }
    if raw {
        let rate = |value: Option<u64>, unit: f64| {
            value.map_or_else(
                || "?".to_owned(),
                |value| format!("{:.1}", value as f64 / unit),
            )
        };
        println!(
            "kernels {} GB/s of weights, {} Gop/s",
            rate(facts.kernel_bytes_per_s, 1e9),
            rate(facts.kernel_operations_per_s, 1e9)
        );
        println!(
            "pocket model {} tokens/s",
            rate(facts.pocket_tokens_per_s, 1.0)
        );
        println!("disk {} MB/s", rate(facts.disk_write_bytes_per_s, 1e6));
    }
    println!();
    let rows: Vec<Vec<String>> = table
        .iter()
        .map(|row| {
            let advice = match row.advice {
                Advice::Recommended => "recommended",
                Advice::Eligible => "eligible",
                Advice::No => "no",
            };
            vec![show::roles(&[row.role]), advice.to_owned(), row.why.clone()]
        })
        .collect();
    println!("{}", show::table(&["role", "advice", "why"], &rows));
    println!("\nNothing was changed. `freehold profile --write` puts roles into freehold.toml.");
}

fn write(folder: &Folder, roles: &[Role], json: bool) -> anyhow::Result<ExitCode> {
    // A missing or broken file is reported before it is touched.
    folder.config()?;
    let text = std::fs::read_to_string(folder.config_path())?;
    folder.write_config(&with_roles(&text, roles)?)?;
    if json {
        print_json(&json!({"roles": roles}))?;
    } else {
        println!(
            "{} now says roles = [{}]; a running node takes them at its next start",
            folder.config_path().display(),
            show::roles(roles)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Replaces the line of `roles`, or adds one at the top; everything else stays as it is.
fn with_roles(text: &str, roles: &[Role]) -> anyhow::Result<String> {
    let names: Vec<String> = roles
        .iter()
        .map(|role| format!("\"{}\"", show::roles(&[*role])))
        .collect();
    let line = format!("roles = [{}]", names.join(", "));
    let top = text
        .lines()
        .position(|line| line.trim_start().starts_with('['))
        .unwrap_or(usize::MAX);
    let is_roles = |line: &str, commented: bool| {
        let line = line.trim_start();
        let line = if commented {
            line.strip_prefix('#').map(str::trim_start)
        } else {
            Some(line)
        };
        line.and_then(|line| line.strip_prefix("roles"))
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let find = |commented| {
        text.lines()
            .take(top)
            .position(|line| is_roles(line, commented))
    };
    let mut lines: Vec<&str> = text.lines().collect();
    match find(false).or_else(|| find(true)) {
        Some(at) => {
            anyhow::ensure!(
                lines[at].contains(']'),
                "`roles` goes over several lines: put it on one, then try again"
            );
            lines[at] = &line;
        }
        None => lines.insert(0, &line),
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, document};

    #[test]
    fn roles_replace_their_own_line_and_nothing_else() {
        let before = document::fresh("signet");
        let text = with_roles(&before, &[Role::Client]).unwrap();
        assert!(text.contains("\nroles = [\"client\"]\n"));
        assert_eq!(text.lines().count(), before.lines().count());
        let again = with_roles(&text, &[Role::Client]).unwrap();
        assert_eq!(again, text);
        assert!(Config::parse(&text, std::path::Path::new("x")).is_ok());
        assert!(with_roles("roles = [\n\"client\"\n]\n", &[Role::Client]).is_err());
        assert!(
            with_roles("network = \"signet\"\n[host]\n", &[Role::Client])
                .unwrap()
                .starts_with("roles")
        );
    }
}
