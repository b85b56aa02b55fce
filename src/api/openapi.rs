//! `GET /openapi.json`: the API as a document for programs, made from the table of routes, from what is said of each
//! route in `operations`, and from the types that travel.

mod operations;

use std::collections::HashMap;
use std::sync::OnceLock;

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use larder_jobs::Problem;
use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::routes::{ROUTES, Route};
use operations::{Answer, Operation, Place, Shape};

/// The version of the API; it grows, and what it answers stays.
const API_VERSION: &str = "1";

pub(super) async fn show() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    let text = TEXT.get_or_init(|| {
        let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
        text.push('\n');
        text
    });
    ([(header::CONTENT_TYPE, "application/json")], text.as_str()).into_response()
}

/// The parameters that a route takes.
pub(super) fn parameters_of(route: &Route) -> &'static [&'static str] {
    static KNOWN: OnceLock<HashMap<&str, &[&str]>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let operations =
            ROUTES.iter().filter_map(|route| Some((route.name, operations::of(route.name)?.query)));
        operations.collect()
    });
    known.get(route.name).copied().unwrap_or_default()
}

/// The schema of a type.
fn shape_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn generator(settings: SchemaSettings) -> SchemaGenerator {
    settings.with(|settings| settings.definitions_path = "/components/schemas".into()).into_generator()
}

/// Answers may have fields that this document does not know yet, also those that are read strictly elsewhere.
fn open(schema: &mut Schema) {
    if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
        schema.remove("additionalProperties");
    }
    transform_subschemas(&mut open, schema);
}

/// What there is to say, in parts.
struct Parts {
    paths: Map<String, Value>,
    /// Types of requests, and of answers.
    asked: Map<String, Value>,
    answered: Map<String, Value>,
    problem: Value,
}

fn parts() -> Parts {
    let settings = SchemaSettings::draft2020_12;
    let mut asked = generator(settings().for_deserialize());
    let mut answered = generator(settings().for_serialize().with_transform(open));
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let Some(operation) = operations::of(route.name) else { continue };
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] =
            described(route, &operation, &mut asked, &mut answered);
    }
    let problem = shape_of::<Problem>(&mut answered);
    Parts { paths, asked: asked.take_definitions(true), answered: answered.take_definitions(true), problem }
}

fn document() -> Value {
    let Parts { paths, asked, answered: mut schemas, problem } = parts();
    // What is asked for and answered is described as it is asked for: a job of a plan can be sent as it is.
    schemas.extend(asked);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "larder",
            "version": API_VERSION,
            "description": "Keeps GPU hosts stocked with models. Sizes are bytes, times RFC 3339, unknown is null. \
                Fields are only ever added to answers, so ignore those that you do not know; unknown fields and \
                parameters of requests are refused.",
            "license": {"name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT"},
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"problem": {
                "description": "What went wrong, and what to do (RFC 9457).",
                "content": {"application/problem+json": {"schema": problem}},
            }},
            "securitySchemes": {"token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed over TCP where api.tokens is set; each operation says which role.",
            }},
        },
    })
}

fn described(
    route: &Route,
    operation: &Operation,
    asked: &mut SchemaGenerator,
    answered: &mut SchemaGenerator,
) -> Value {
    let role = if route.is_probe { "none with api.public_metrics, else read" } else { route.role.word() };
    let mut parameters: Vec<Value> = Vec::new();
    for name in route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        parameters.extend(operations::parameter(Place::Path, name));
    }
    parameters.extend(operation.query.iter().filter_map(|name| operations::parameter(Place::Query, name)));
    parameters.extend(operation.headers.iter().filter_map(|name| operations::parameter(Place::Header, name)));
    let mut responses = Map::new();
    for Answer { status, says, shape } in &operation.answers {
        let (kind, schema) = match shape {
            Shape::Json(schema) => ("application/json", schema(answered)),
            Shape::Text(kind) => (*kind, json!({"type": "string"})),
            Shape::Nothing => {
                responses.insert(status.to_string(), json!({"description": says}));
                continue;
            }
        };
        let content = Map::from_iter([(kind.to_owned(), json!({"schema": schema}))]);
        responses.insert(status.to_string(), json!({"description": says, "content": content}));
    }
    for class in ["4XX", "503", "507"] {
        responses.insert(class.into(), json!({"$ref": "#/components/responses/problem"}));
    }
    let mut described = json!({
        "operationId": route.name,
        "summary": operation.says,
        "description": format!("Role: {role}."),
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = operation.body {
        let content = json!({"application/json": {"schema": body(asked), "example": operation.example}});
        described["requestBody"] = json!({"required": true, "content": content});
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Registry;
    use crate::scout::{FitAsk, PlanAsk};

    #[test]
    fn every_route_is_described_and_every_reference_leads_somewhere() {
        for route in ROUTES {
            assert!(operations::of(route.name).is_some(), "{} is not described", route.name);
        }
        let document = document();
        let text = document.to_string();
        let mut references = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let place = part.split('"').next().expect("an end");
            assert!(document.pointer(place).is_some(), "{place}");
            references += 1;
        }
        assert!(references > 100, "{references}");
        for name in ["Job", "JobView", "ModelView", "Problem"] {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }

    /// Whether a schema says more than that there is an object.
    fn tells(document: &Value, schema: &Value) -> bool {
        match schema["$ref"].as_str() {
            Some(place) => document.pointer(&place[1..]).is_some_and(|schema| tells(document, schema)),
            None => {
                ["properties", "oneOf", "anyOf", "allOf", "enum"].iter().any(|key| !schema[*key].is_null())
            }
        }
    }

    #[test]
    fn json_is_told_field_by_field() {
        let document = document();
        let methods = document["paths"].as_object().expect("paths").values().filter_map(Value::as_object);
        let mut seen = 0;
        // What the document itself is like is said elsewhere.
        for operation in methods.flat_map(Map::values).filter(|one| one["operationId"] != "describe") {
            let answers = operation["responses"].as_object().expect("answers").values();
            for part in answers.chain([&operation["requestBody"]]) {
                let Some(schema) = part.pointer("/content/application~1json/schema") else { continue };
                assert!(tells(&document, schema), "{}: {schema}", operation["operationId"]);
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen}");
    }

    #[test]
    fn one_name_is_one_type() {
        let Parts { asked, answered, .. } = parts();
        for name in asked.keys().chain(answered.keys()) {
            // That is how schemars tells two types of one name apart.
            assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}");
        }
        let mut both = 0;
        for (name, schema) in &asked {
            let Some(other) = answered.get(name) else { continue };
            let mut schema = Schema::try_from(schema.clone()).expect("a schema");
            open(&mut schema);
            assert_eq!(schema.as_value(), other, "{name}");
            both += 1;
        }
        assert!(both > 10, "{both}");
    }

    #[test]
    fn the_examples_of_questions_are_good_ones() {
        let registry = Registry::builtin();
        let example = |name: &str| operations::of(name).expect(name).example;
        FitAsk::from_json(example("fit"), &registry).expect("fit");
        PlanAsk::from_json(example("plan"), &registry).expect("plan");
    }
}
