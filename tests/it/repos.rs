//! Every model of the table as a repository: its headers are true, complete, and count to the model's parameters.

use larder::weights::summary::Packing;
use larder::weights::{Contents, FileFacts, Index, Known, Read, Summary, safetensors, structure};
use support::repos::{Quant, Repo, Row, quantised, tensors};

fn table() -> Vec<Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fit/models.csv");
    Row::all(&std::fs::read_to_string(path).expect("the table")).expect("a table")
}

/// The config's fact, wherever it stands.
fn fact(repo: &Repo, keys: &[&str]) -> Option<u64> {
    let text = repo.config.get("text_config").unwrap_or(&repo.config);
    keys.iter().find_map(|key| text.get(key)?.as_u64())
}

/// The headers of a repo's files.
fn headers(repo: &Repo) -> Vec<safetensors::Header> {
    let header = |file: &support::repos::File| match safetensors::parse(&file.header, Some(file.size)) {
        Ok(Read::Done(header)) => header,
        other => panic!("{} {}: {other:?}", repo.id, file.path),
    };
    repo.files.iter().map(header).collect()
}

#[test]
fn parameters_of_every_row_are_those_of_the_table() {
    let mut rows = 0;
    for mut row in table() {
        let Some(params) = row.get("params_exact") else { continue };
        rows += 1;
        // The pickled ones too.
        row.safetensors = true;
        let repo = Repo::from_row(&row);
        let headers = headers(&repo);
        let layers = fact(&repo, &["num_hidden_layers", "n_layer", "n_layers"]);
        let summary = Summary::of(&headers, Known { bits: None, tied_head: Some(row.tied), layers });
        assert_eq!(summary.text_parameters(), params, "{}", row.hf_id);
        // The hub counts what is stored; it unpacks MXFP4 and leaves out the scales of FP8.
        if let Some(stored) = row.get("hub_safetensors_total")
            && summary.packing.is_none()
        {
            let elements: u64 = summary.by_dtype.iter().map(|sum| sum.elements).sum();
            assert_eq!(elements, stored, "{}", row.hf_id);
        }

        let facts = repo.files.iter().zip(headers).map(|(file, header)| FileFacts {
            path: file.path.clone(),
            size: Some(file.size),
            contents: Contents::Safetensors(Ok(header)),
        });
        let facts: Vec<FileFacts> = facts.collect();
        let index = repo
            .index
            .as_ref()
            .map(|index| Index::parse("model.safetensors.index.json", &index.to_string()).expect("an index"));
        assert_eq!(index.is_some(), facts.len() > 1);
        assert_eq!(structure::check(&facts, index.as_ref()), [], "{}", row.hf_id);
    }
    assert_eq!(rows, 66);
}

#[test]
fn quantised_variants_count_to_the_same_parameters() {
    for id in ["Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-30B-A3B"] {
        let row = table().into_iter().find(|row| row.hf_id == id).expect("a row");
        let plain = tensors(&row);
        let params = row.get("params_exact").expect("parameters");
        for (how, packing, ratio) in [
            (Quant::Awq, Packing::Awq, 0.2..0.5),
            (Quant::Gptq(4), Packing::Gptq, 0.2..0.5),
            (Quant::Gptq(8), Packing::Gptq, 0.5..0.7),
            (Quant::Nf4, Packing::BnbNf4, 0.2..0.5),
            (Quant::Fp8, Packing::Fp8, 0.5..0.7),
        ] {
            let repo = Repo::from_tensors(id, serde_json::Value::Null, &quantised(&plain, how));
            let summary = Summary::of(&headers(&repo), Known::default());
            assert_eq!((summary.parameters, summary.packing), (params, Some(packing)), "{id} {how:?}");
            let bytes = summary.bytes as f64 / (2 * params) as f64;
            assert!(ratio.contains(&bytes), "{id} {how:?}: {bytes}");
        }
    }
}

#[test]
fn pickled_repos_stay_pickled() {
    let row = table().into_iter().find(|row| row.hf_id == "facebook/opt-350m").expect("a row");
    let repo = Repo::from_row(&row);
    assert_eq!((repo.files[0].path.as_str(), repo.files[0].size), ("pytorch_model.bin", 662_392_832));
    assert_eq!(repo.files.len(), 1);
}
