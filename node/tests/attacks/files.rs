//! Files under a running node: its models, one with a hostile template, and what a dead node left in
//! its folder.

use super::alone;
use super::fitness::{BOUND, Range};
use super::orders::{dropped, flood};
use super::stranger::{Target, fresh_key, job, order};
use anyhow::{Context, Result, ensure};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

/// A template that makes a string without end.
const TEMPLATE: &str = "{% set n = namespace(s='ab') %}{% for i in range(99999) %}{% for j in \
                        range(99999) %}{% set n.s = n.s + n.s %}{% endfor %}{% endfor %}{{ n.s }}";
/// What a template may still be rendered after its order is gone: two at once, 2 s of processor each.
const RENDERED: Duration = Duration::from_secs(4);

/// The small model's file with another template in the place of its own.
fn with_template(template: &str) -> Result<Vec<u8>> {
    let mut file = kernels::pocket::pocket().to_vec();
    let find = |from: usize, text: &str| {
        let mut windows = file[from..].windows(text.len());
        let at = windows.position(|window| window == text.as_bytes());
        at.map(|at| from + at).context("no template")
    };
    let start = find(0, "{%- for message in messages %}")?;
    let end = "{%- endif %}";
    let end = find(start, end)? + end.len();
    ensure!(template.len() <= end - start, "the template is too long");
    file[start..end].fill(b' ');
    file[start..start + template.len()].copy_from_slice(template.as_bytes());
    Ok(file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_fit_after_its_model_file_was_cut_overwritten_and_removed() -> Result<()> {
    let _alone = alone().await;
    let mut range = Range::start().await?;
    let model = range.host().dir.join("model.gguf");
    std::fs::write(&model, kernels::pocket::pocket())?;
    let hostile = range.host().dir.join("hostile.gguf");
    std::fs::write(&hostile, with_template(TEMPLATE)?)?;
    let from_file = |settings: &str| {
        let models =
            format!("path = {model:?}\n[[models]]\npath = {hostile:?}\nname = \"hostile\"");
        settings.replace("path = \"pocket\"", &models)
    };
    range.restart_host(from_file).await?;
    let models = range.host().client()?.status().await?.models;
    let hostile = models.iter().find(|row| row.name == "hostile");
    let hostile = hostile.context("the model is not there")?.digest;
    range
        .survives("hostile template", |target: Target| async move {
            let make = move |target: &Target, _| order(&fresh_key(), target, hostile, job("Go."));
            let did = flood(target, make, dropped).await;
            tokio::time::sleep(RENDERED).await;
            did
        })
        .await?;

    let length = std::fs::metadata(&model)?.len();
    let (cut, written, gone) = (model.clone(), model.clone(), model);
    range
        .survives("model overwritten", |_: Target| async move {
            std::fs::write(&written, vec![0xa5; length as usize])?;
            Ok(format!("{length} bytes"))
        })
        .await?;
    range
        .survives("model truncated", |_: Target| async move {
            std::fs::OpenOptions::new()
                .write(true)
                .open(&cut)?
                .set_len(4_096)?;
            Ok("4,096 bytes are left".to_owned())
        })
        .await?;
    range
        .survives("model removed", |_: Target| async move {
            std::fs::remove_file(&gone)?;
            Ok("nothing is left".to_owned())
        })
        .await?;
    range.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_fit_where_a_control_file_names_somebody_else() -> Result<()> {
    let _alone = alone().await;
    let mut range = Range::start().await?;
    let options = range.options.clone();
    let impostor = TcpListener::bind("127.0.0.1:0")?;
    impostor.set_nonblocking(true)?;
    let false_word = format!(
        "{{\"address\": \"http://{0}\", \"url\": \"http://{0}\", \"token\": \"secret\", \"pid\": 1, \"serves\": \"all\"}}",
        impostor.local_addr()?
    );
    let ledger = |dir: &std::path::Path| {
        Command::new(env!("CARGO_BIN_EXE_freehold"))
            .args(["ledger", "--json", "--dir"])
            .arg(dir)
            .output()
    };

    // What a node that was killed leaves, and what earlier versions wrote.
    let host = &mut range.stage.members[1];
    let control = host.dir.join("control.json");
    host.kill().await;
    ensure!(control.exists(), "the node left nothing");
    let told = ledger(&host.dir)?;
    ensure!(told.status.success(), "stale: {told:?}");
    std::fs::write(&control, &false_word)?;
    let told = ledger(&host.dir)?;
    ensure!(told.status.success(), "false: {told:?}");
    host.spawn(&options)?;
    host.wait_ready(BOUND)
        .await
        .context("beside a false word")?;
    range.buy().await?;

    let running = control.clone();
    range
        .survives("control file overwritten", |_: Target| async move {
            std::fs::write(&running, &false_word)?;
            Ok("under the running node".to_owned())
        })
        .await?;
    let told = ledger(&range.host().dir)?;
    ensure!(!told.status.success(), "a folder in use was opened twice");
    let heard = impostor.accept().map(|_| ());
    ensure!(heard.is_err(), "somebody talked to the impostor");
    range.end().await
}
