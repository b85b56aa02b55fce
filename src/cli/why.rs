//! `larder why`: what keeps a model in the cache, or why it would go.

use jiff::Timestamp;
use larder_jobs::ModelRef;

use super::OK;
use super::client::Client;
use super::output::{Output, ago};
use crate::config::Settings;
use crate::error::Result;
use crate::keeper::{Decision, Verdict};

pub(super) async fn run(settings: Settings, model: ModelRef, output: &Output) -> Result<u8> {
    let client = Client::larder_or_here(settings).await?;
    let verdicts = client.why(&model).await?;
    output.print(&verdicts, || {
        verdicts.iter().map(|verdict| human(verdict, *output)).collect::<Vec<_>>().join("\n\n")
    })?;
    Ok(OK)
}

fn human(verdict: &Verdict, output: Output) -> String {
    let (model, now) = (&verdict.model, Timestamp::now());
    let decision = match verdict.decision {
        Decision::Keep => "stays",
        Decision::Evict => "goes",
    };
    let mut lines = vec![
        format!("{}@{} {decision}: {}", model.repo, model.commit.short(), verdict.because),
        format!(
            "  {} in {} files, {}, last used {}",
            output.size(model.bytes),
            model.files,
            model.origin.word(),
            ago(model.last_used_at, now)
        ),
    ];
    if let Some(before) = verdict.before_it.filter(|_| verdict.decision == Decision::Keep) {
        lines.push(match before {
            0 => "  if room is needed, it goes first".into(),
            1 => "  if room is needed, 1 other revision goes before it".into(),
            number => format!("  if room is needed, {number} other revisions go before it"),
        });
    }
    for gone in &verdict.evicted_before {
        let back = match (gone.back_at, gone.is_regretted()) {
            (Some(back), true) => {
                format!(", and asked for again {}: it should have stayed", ago(Some(back), now))
            }
            (Some(back), false) => format!(", and staged again {}", ago(Some(back), now)),
            (None, _) => String::new(),
        };
        let reason = gone.reason.replace('_', " ");
        lines.push(format!("  was evicted {} ({reason}){back}", ago(Some(gone.at), now)));
    }
    lines.join("\n")
}
