//! The bodies of `POST /v1/fit` and `POST /v1/plan` as the API's document has them: what is read next door.

use std::borrow::Cow;

use larder_jobs::{Common, Download, Kind, VERSION};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{EvaluationAsk, FitAsk, MAX_MODELS, PlanAsk, Purpose};
use crate::catalogue::Category;

impl JsonSchema for FitAsk {
    fn schema_name() -> Cow<'static, str> {
        "FitQuestion".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = download(generator);
        schema.insert(
            "description".into(),
            "A model as a job would stage it, and what it shall do where.".into(),
        );
        with_purpose(&mut schema, generator);
        schema
    }
}

impl JsonSchema for EvaluationAsk {
    fn schema_name() -> Cow<'static, str> {
        "EvaluationQuestion".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = download(generator);
        schema.insert(
            "description".into(),
            "Models as jobs would stage them, and what they shall do where.".into(),
        );
        with_purpose(&mut schema, generator);
        let category = generator.subschema_for::<Category>().to_value();
        let says = "Names of the registry or repos, each with `@` and a revision if it is not the one above.";
        let name = json!({"type": "string"});
        put(&mut schema, "category", category);
        put(
            &mut schema,
            "models",
            json!({"description": says, "type": "array", "items": name, "maxItems": MAX_MODELS}),
        );
        if let Some(variant) = schema.pointer_mut("/properties/variant").and_then(Value::as_object_mut) {
            variant.insert("default".into(), "auto".into());
        }
        // Who it is about is told by the two fields that were just added.
        if let Some(fields) = properties(&mut schema) {
            fields.remove("repo");
        }
        schema.remove("required");
        schema.insert("anyOf".into(), json!([{"required": ["category"]}, {"required": ["models"]}]));
        schema
    }
}

impl JsonSchema for PlanAsk {
    fn schema_name() -> Cow<'static, str> {
        "PlanQuestion".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let evaluation = generator.subschema_for::<EvaluationAsk>();
        let mut one = download(generator);
        one.insert("title".into(), "DownloadQuestion".into());
        one.insert("description".into(), "A model as a job would stage it.".into());
        json_schema!({"oneOf": [one, evaluation]})
    }
}

/// The fields of a download, and those that every kind of job takes, so that the body of a job will do.
fn download(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Download::json_schema(generator);
    let mut common = Common::json_schema(generator);
    put_all(&mut schema, &mut common);
    put(&mut schema, "v", json!({"type": "integer", "minimum": 1, "maximum": VERSION}));
    put(&mut schema, "kind", json!({"const": Kind::Download.word()}));
    let says = "The repo, `owner/name`, or a short name of the registry.";
    put(&mut schema, "repo", json!({"description": says, "type": "string"}));
    schema
}

fn with_purpose(schema: &mut Schema, generator: &mut SchemaGenerator) {
    let mut purpose = Purpose::json_schema(generator);
    put_all(schema, &mut purpose);
}

fn put_all(schema: &mut Schema, more: &mut Schema) {
    for (name, field) in properties(more).map(std::mem::take).unwrap_or_default() {
        put(schema, &name, field);
    }
}

fn put(schema: &mut Schema, name: &str, field: Value) {
    if let Some(fields) = properties(schema) {
        fields.insert(name.to_owned(), field);
    }
}

fn properties(schema: &mut Schema) -> Option<&mut serde_json::Map<String, Value>> {
    schema.get_mut("properties")?.as_object_mut()
}

/// A size is bytes, or a text with a unit.
pub(super) fn vram(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "string", "null"], "minimum": 1})
}
