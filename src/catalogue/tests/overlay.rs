//! Entries of one's own.

use super::super::*;

fn overlay(text: &str) -> Result<Registry, Fault> {
    Registry::builtin().with_overlay(text, "mine.toml")
}

#[test]
fn an_overlay_adds_and_replaces() {
    let registry = overlay(
        r#"
        [[model]]
        name = "GPT2"
        id = "our-house/gpt2-tuned"
        category = "general"
        [[model]]
        name = "small-phi"
        id = "Microsoft/phi-2"
        aliases = ["phi"]
        category = "tiny"
        parameters = 1
        [[model]]
        name = "house"
        alias_of = "microsoft/phi-2"
        category = "coding"
        "#,
    )
    .expect("a good overlay");
    let builtin = Registry::builtin();
    assert_eq!(registry.models().len(), builtin.models().len() + 1);
    let gpt2 = registry.get("gpt2").expect("replaced by name");
    assert_eq!((gpt2.id.as_str(), gpt2.parameters), ("our-house/gpt2-tuned", None));
    assert_eq!(gpt2.origin, "mine.toml");
    assert_eq!(registry.get("openai-community/gpt2"), None, "replaced as a whole");
    let phi = registry.get("phi").expect("replaced by id, upper and lower case alike");
    assert_eq!((phi.name.as_str(), phi.origin.as_str()), ("small-phi", "mine.toml"));
    assert_eq!(registry.get("phi-2").map(|m| m.name.as_str()), Some("small-phi"), "second half of the id");
    for alias in ["phi-2-instruct", "house"] {
        assert_eq!(registry.get(alias).expect(alias).parameters, Some(1), "aliases follow their target");
    }
    assert_eq!(registry.get("opt-350m"), builtin.get("opt-350m"), "the others stay");
}

#[test]
fn an_overlay_with_nonsense_is_refused_with_file_line_and_hint() {
    let entry = |more: &str| format!("[[model]]\nname = \"x\"\nid = \"a/x\"\ncategory = \"tiny\"\n{more}\n");
    for (text, line, what, hint) in [
        (entry("parametres = 1"), 5, "unknown key `parametres`", "`parameters`"),
        (entry("files = { formt = \"pickle\" }"), 5, "unknown key `formt`", "`format`"),
        (entry("parameters = 0"), 1, "`parameters` is not between", "leave `parameters` out"),
        (entry("parameters = nan"), 5, "is not a whole number", "all digits"),
        (entry("parameters = 7.2e9"), 5, "is not a whole number", "all digits"),
        (entry("parameters = -1"), 5, "-1", ""),
        (
            entry("config = { model_type = \"llama\", rope_theta = nan }"),
            1,
            "`config.rope_theta` is not a number",
            "digits",
        ),
        (
            entry("config = { model_type = \"llama\", hidden_size = 0 }"),
            1,
            "`config.hidden_size`",
            "config.json",
        ),
        (entry("config = { hidden_size = 1 }"), 1, "no `model_type`", "config.json"),
        (entry("config = { model_type = \"a\", d = 1979-05-27 }"), 1, "`config.d`", "config.json"),
        (
            entry("context = 9\nconfig = { model_type = \"a\", n_positions = 8 }"),
            1,
            "the config allows 8",
            "context",
        ),
        (
            entry("probes = { layers = [3] }\nconfig = { model_type = \"a\", n_layer = 3 }"),
            1,
            "names layer 3, but there are 3",
            "from 0",
        ),
        (entry("probes = { layers = [3, 1] }"), 1, "rising order", "first"),
        (entry("files = { weights = [\"../../etc/passwd\"] }"), 1, "no file of a repo", "below"),
        (entry("batches = [{ card = \"T4\", context = 1, size = 0 }]"), 1, "makes no sense", "size"),
        (entry("prompt = \"hello\""), 1, "no place for the question", "{prompt}"),
        (entry("").replace("tiny", "tiney"), 4, "`tiney` is not one of", "`tiny`"),
        (entry("").replace("a/x", "x"), 3, "the owner is missing", ""),
        (entry("").replace("id = \"a/x\"\n", ""), 1, "`id` is missing", "openai-community/gpt2"),
        (entry("").replace("\"x\"", "\"a/x\""), 1, "`a/x` is not a short name", "letters"),
        (entry("") + entry("").replace("a/x", "a/y").as_str(), 6, "stands in line 1 already", "leave one"),
        (entry("aliases = [\"gpt2\"]"), 1, "both claim the name `gpt2`", "rename"),
        (
            entry("").replace("\"x\"", "\"gpt2\"").replace("a/x", "microsoft/phi-2"),
            1,
            "both `gpt2` and `phi-2`",
            "one",
        ),
        (entry("").replace("\"x\"", "\"phi-2\""), 1, "stands for microsoft/phi-2", "phi-2-instruct"),
        (entry("alias_of = \"a/b\""), 1, "exclude each other", "leave one"),
        (entry("context = 1").replace("id =", "alias_of ="), 1, "an alias takes `context`", "leave out"),
        (entry("").replace("id =", "alias_of ="), 1, "a/x, which is no entry", "add an entry"),
        ("[[model]]\nname = ".to_owned(), 2, "", ""),
        ("\n[[models]]\n".to_owned(), 2, "unknown key `models`", "`model`"),
    ] {
        let fault = overlay(&text).expect_err(&text);
        assert!(fault.to_string().contains(what), "{fault}\n{text}");
        assert!(fault.hint().contains(hint) && !fault.hint().is_empty(), "{fault}; {}\n{text}", fault.hint());
        assert_eq!(fault.origin(), "mine.toml");
        // The fault of an alias that lost its target stands with the alias, which is not in this file.
        let expected = if what.starts_with("stands for") { None } else { Some(line) };
        assert_eq!(fault.line(), expected, "{fault}\n{text}");
    }
    let long = overlay(&" ".repeat((1 << 20) + 1)).expect_err("too long");
    assert!(long.to_string().contains("more than 1048576"), "{long}");
    let deep =
        entry(&format!("config = {{ model_type = \"a\", x = {}1{} }}", "[".repeat(20), "]".repeat(20)));
    overlay(&deep).expect_err("too deep");
}
