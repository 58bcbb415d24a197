//! The check of the defaults of a schema in a definition: each is valid by the schema of its field. Rules and texts
//! are those of `pkg/apiserver/schema/defaulting` in k8s.io/apiextensions-apiserver.

use json_tree::{Map, Value, json};
use object_model::{FieldError, FieldPath};

use crate::combinations::NO_FIELD;
use crate::object_meta;
use crate::rules::broken_rules;
use crate::schema::Schema;
use crate::schema_node::Node;
use crate::shape::{Fields, unknown};
use crate::validate::validate;

const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The errors of the defaults in the schema of a version. The schema must be structural.
pub(crate) fn check(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let place = Place {
        steps: Vec::new(),
        is_in_metadata: false,
        is_root: true,
    };
    visit(schema, &place, path, &mut errors);
    errors
}

/// The position of a value in its object: the resource, or the closest embedded object.
struct Place {
    /// The path from the object to the value.
    steps: Vec<Step>,
    /// Whether the value is `apiVersion`, `kind` or `metadata` of the object, or a part of them.
    is_in_metadata: bool,
    is_root: bool,
}

#[derive(Clone)]
enum Step {
    Field(String),
    Element,
}

impl Place {
    fn below(&self, step: Step, is_in_metadata: bool) -> Self {
        Self {
            steps: [self.steps.as_slice(), &[step]].concat(),
            is_in_metadata,
            is_root: false,
        }
    }
}

fn visit(schema: &Value, place: &Place, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(node) = Node::new(schema) else {
        return;
    };
    let is_object = place.is_root || node.flag("x-kubernetes-embedded-resource");
    let object = Place {
        steps: Vec::new(),
        is_in_metadata: false,
        is_root: place.is_root,
    };
    let place = if is_object { &object } else { place };
    if let Some(default) = node.get("default") {
        check_default(default, schema, place, &path.child("default"), errors);
    }
    // Upstream does not read the schemas of other fields (`additionalProperties`), whose defaults are never set.
    if let Some(items) = node.get("items") {
        let below = place.below(Step::Element, place.is_in_metadata);
        visit(items, &below, &path.child("items"), errors);
    }
    let properties = node.get("properties").and_then(Value::as_object);
    for (name, schema) in properties.into_iter().flatten() {
        let is_in_metadata =
            place.is_in_metadata || (is_object && OBJECT_FIELDS.contains(&name.as_str()));
        let below = place.below(Step::Field(name.clone()), is_in_metadata);
        visit(schema, &below, &path.child("properties").key(name), errors);
    }
}

fn check_default(
    default: &Value,
    schema: &Value,
    place: &Place,
    at: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let mut parsed = Schema::parse(schema);
    parsed.embedded |= place.is_root;
    let invalid = |detail: String| FieldError::invalid(at, default.clone(), detail);
    if place.is_in_metadata {
        if let Err(reason) = metadata_with(default, &place.steps) {
            errors.push(invalid(format!("must result in valid metadata: {reason}")));
            return;
        }
    } else {
        let fields = match parsed.embedded {
            true => Fields::OfObject,
            false => Fields::OfSchema,
        };
        if !unknown(default, &parsed, fields).is_empty() {
            errors.push(invalid("must not have unknown fields".to_owned()));
        }
        if let Err(error) = object_meta::decode_value(&mut default.clone(), &parsed) {
            errors.push(invalid(error.to_string()));
            return;
        }
    }
    let mut of_value = validate(default, None, &parsed);
    if of_value.is_empty() {
        of_value = broken_rules(default, None, &parsed);
    }
    errors.extend(of_value.into_iter().map(|error| {
        let below = error.field.to_string();
        let field = match below.is_empty() || below == NO_FIELD {
            true => at.clone(),
            false => at.child(&below),
        };
        FieldError { field, ..error }
    }));
}

/// Checks the metadata of an object that has the default at this path, and nothing else.
fn metadata_with(default: &Value, steps: &[Step]) -> Result<(), String> {
    let mut object = default.clone();
    for step in steps.iter().rev() {
        object = match step {
            Step::Element => Value::Array(vec![object]),
            Step::Field(name) => {
                let mut map = Map::new();
                map.insert(name.clone(), object);
                Value::Object(map)
            }
        };
    }
    let Some(map) = object.as_object_mut() else {
        return Ok(());
    };
    for (name, value) in [("apiVersion", "validation/v1"), ("kind", "Validation")] {
        map.entry(name).or_insert(json!(value));
    }
    object_meta::check_embedded(map).map_err(|errors| errors.join(", "))
}
