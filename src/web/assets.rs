//! The files of the page, compiled in.

/// One file.
#[derive(Debug)]
pub(super) struct Asset {
    /// Where it is asked for.
    pub(super) path: &'static str,
    /// Its media type.
    pub(super) kind: &'static str,
    /// What is in it.
    pub(super) bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($($path:literal, $kind:ident, $file:literal;)*) => {
        /// All of them.
        pub(super) const ASSETS: &[Asset] =
            &[$(Asset { path: $path, kind: $kind, bytes: include_bytes!(concat!("assets/", $file)) },)*];

        #[cfg(test)]
        const FILES: &[&str] = &[$($file,)*];
    };
}

assets! {
    "/", HTML, "page.html";
    "/assets/page.css", CSS, "page.css";
    "/assets/icon.svg", SVG, "icon.svg";
    "/assets/main.js", JS, "main.js";
    "/assets/net.js", JS, "net.js";
    "/assets/dom.js", JS, "dom.js";
    "/assets/format.js", JS, "format.js";
    "/assets/jobs.js", JS, "jobs.js";
    "/assets/models.js", JS, "models.js";
    "/assets/plan.js", JS, "plan.js";
    "/assets/disk.js", JS, "disk.js";
    "/assets/gpus.js", JS, "gpus.js";
    "/assets/chart.js", JS, "chart.js";
    "/assets/host.js", JS, "host.js";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use larder_jobs::State;

    use super::*;
    use crate::plan::{Evict, Keep};

    /// What a text loads: after `src="`, `href="/` and `from "./`.
    fn loaded(text: &str) -> BTreeSet<String> {
        let after = |start: &str| -> Vec<String> {
            text.split(start).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
        };
        let absolute =
            after("src=\"").into_iter().chain(after("href=\"/").into_iter().map(|rest| format!("/{rest}")));
        absolute.chain(after("from \"./").into_iter().map(|name| format!("/assets/{name}"))).collect()
    }

    #[test]
    fn every_file_of_the_folder_is_served_and_every_file_that_is_loaded_exists() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/assets");
        let there: BTreeSet<_> = std::fs::read_dir(folder)
            .expect("the folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        assert_eq!(there, FILES.iter().map(|file| (*file).to_owned()).collect());
        let texts = ASSETS.iter().map(|asset| std::str::from_utf8(asset.bytes).expect("UTF-8"));
        let loaded: BTreeSet<_> = texts.flat_map(loaded).collect();
        let served: BTreeSet<_> =
            ASSETS.iter().map(|asset| asset.path.to_owned()).filter(|path| path != "/").collect();
        assert_eq!(loaded, served, "all that is loaded, and nothing more");
    }

    #[test]
    fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
        for asset in ASSETS {
            let text = std::str::from_utf8(asset.bytes).expect("UTF-8");
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                " style=\"",
                " onclick",
            ] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", asset.path);
            }
            let elsewhere = text.replace("http://www.w3.org/", "");
            assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{}", asset.path);
        }
    }

    fn text(path: &str) -> &'static str {
        let asset = ASSETS.iter().find(|asset| asset.path == path).expect("served");
        std::str::from_utf8(asset.bytes).expect("UTF-8")
    }

    #[test]
    fn every_reason_of_a_plan_has_its_sentence() {
        let (stays, goes) = text("/assets/plan.js").split_once("const GOES").expect("two tables");
        let has = |table: &str, word: &str| table.contains(&format!("\n  {word}: \""));
        for reason in Keep::ALL {
            assert!(has(stays, reason.word()), "{}", reason.word());
        }
        for reason in Evict::ALL {
            assert!(has(goes, reason.word()), "{}", reason.word());
        }
    }

    #[test]
    fn every_state_of_a_job_is_in_its_group() {
        let jobs = text("/assets/jobs.js");
        let group = |fits: fn(&State) -> bool| {
            let words: Vec<_> =
                State::ALL.iter().copied().filter(fits).map(|state| format!("\"{state}\"")).collect();
            format!("[{}];", words.join(", "))
        };
        assert!(jobs.contains(&format!("RUNNING = {}", group(|state| state.is_running()))));
        let waits = |state: &State| !state.is_running() && !state.is_terminal();
        assert!(jobs.contains(&format!("WAITING = {}", group(waits))));
        let good = |state: &State| state.is_terminal() && !matches!(state, State::Failed | State::Cancelled);
        assert!(jobs.contains(&format!("GOOD = {}", group(good))));
    }
}
