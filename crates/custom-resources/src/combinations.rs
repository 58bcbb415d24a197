//! The combinations of schemas: `allOf`, `anyOf`, `oneOf` and `not`. As upstream, each schema is evaluated once.

use json_tree::Value;
use object_model::{FieldError, FieldPath};

use crate::schema::Schema;
use crate::validate::check;

/// The path of an error without a field.
pub(crate) const NO_FIELD: &str = "<nil>";

/// The error of a whole schema. As upstream, it has no field, but the path is in the text.
pub(crate) fn of_schema(text: String) -> FieldError {
    FieldError::invalid(&FieldPath::root(NO_FIELD), "", text)
}

pub(crate) fn check_combinations(
    value: &Value,
    schema: &Schema,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let limits = &schema.limits;
    let failures = |schema: &Schema| {
        let mut failures = Vec::new();
        check(value, None, schema, path, &mut failures);
        failures
    };
    let refused = |detail: &str| of_schema(format!("{:?} {detail}", path.to_string()));
    let all = |schemas: &[Schema]| schemas.iter().map(failures).collect::<Vec<_>>();
    let mut first = None;
    let is_valid = limits.any_of.iter().any(|schema| {
        let failures = failures(schema);
        let is_valid = failures.is_empty();
        first.get_or_insert(failures);
        is_valid
    });
    if let Some(failures) = first.filter(|_| !is_valid) {
        errors.push(refused("must validate at least one schema (anyOf)"));
        errors.extend(failures);
    }
    let one_of = all(&limits.one_of);
    let valid = one_of.iter().filter(|failures| failures.is_empty()).count();
    if !one_of.is_empty() && valid != 1 {
        let found = match valid {
            0 => "none valid".to_owned(),
            count => format!("{count} valid alternatives"),
        };
        let text = format!("must validate one and only one schema (oneOf). Found {found}");
        errors.push(refused(&text));
        if valid == 0 {
            errors.extend(one_of.into_iter().next().unwrap_or_default());
        }
    }
    let all_of = all(&limits.all_of);
    if all_of.iter().any(|failures| !failures.is_empty()) {
        let none = match all_of.iter().any(Vec::is_empty) {
            true => "",
            false => ". None validated",
        };
        errors.extend(all_of.into_iter().flatten());
        errors.push(refused(&format!(
            "must validate all the schemas (allOf){none}"
        )));
    }
    if limits
        .not
        .as_deref()
        .map(failures)
        .is_some_and(|failures| failures.is_empty())
    {
        errors.push(refused("must not validate the schema (not)"));
    }
}
