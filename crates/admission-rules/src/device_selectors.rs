//! The plug-in that refuses DeviceClasses and claims with expressions that do not compile.

use custom_resources::DeviceSelector;
use json_tree::Value;
use object_model::{FieldError, FieldPath, Status};
use resource_kinds::ObjectReader;
use resource_kinds::admission::{Admission, AdmissionRequest, Operation};
use resource_kinds::resource::GROUP;

use crate::expressions::refuse;

#[derive(Debug)]
pub struct DeviceSelectors;

impl Admission for DeviceSelectors {
    fn name(&self) -> &'static str {
        "DeviceSelectors"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        _cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if request.group != GROUP || !writes || !request.subresource.is_empty() {
            return Ok(());
        }
        // A stored expression was valid when it was created.
        if request.old.is_some_and(|old| old["spec"] == object["spec"]) {
            return Ok(());
        }
        refuse(GROUP, object, &unreadable(request.plural, object))
    }
}

/// The errors of all expressions of an object that do not compile.
fn unreadable(plural: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (spec, at) = (&object["spec"], FieldPath::root("spec"));
    match plural {
        "deviceclasses" => selectors(spec, &at, &mut errors),
        "resourceclaims" => claim(spec, &at, &mut errors),
        "resourceclaimtemplates" => claim(&spec["spec"], &at.child("spec"), &mut errors),
        _ => {}
    }
    errors
}

fn claim(spec: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let at = at.child("devices").child("requests");
    for (index, request) in items(&spec["devices"]["requests"]) {
        let at = at.index(index);
        selectors(&request["exactly"], &at.child("exactly"), errors);
        for (index, alternative) in items(&request["firstAvailable"]) {
            let at = at.child("firstAvailable").index(index);
            selectors(alternative, &at, errors);
        }
    }
}

fn selectors(value: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    for (index, selector) in items(&value["selectors"]) {
        let Some(source) = selector["cel"]["expression"].as_str() else {
            continue;
        };
        if source.is_empty() {
            continue;
        }
        if let Err(why) = DeviceSelector::compile(source) {
            let at = at.child("selectors").index(index);
            let field = at.child("cel").child("expression");
            let text = format!("compilation failed: {why}");
            errors.push(FieldError::invalid(&field, source, text));
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings C46
    #[test]
    fn expressions_that_cannot_be_read_are_named() {
        let selectors = json!([{"cel": {"expression": "device.driver == 'd'"}},
            {"cel": {"expression": "object.x"}}]);
        let claim = json!({"devices": {"requests": [
            {"name": "a", "exactly": {"selectors": selectors}},
            {"name": "b", "firstAvailable": [{"selectors": selectors}]}]}});
        let named = |plural: &str, object: Value| -> Vec<String> {
            let errors = unreadable(plural, &object);
            errors.iter().map(|error| error.field.to_string()).collect()
        };
        assert_eq!(
            named("deviceclasses", json!({"spec": {"selectors": selectors}})),
            ["spec.selectors[1].cel.expression"]
        );
        assert_eq!(
            named("resourceclaims", json!({"spec": claim})),
            [
                "spec.devices.requests[0].exactly.selectors[1].cel.expression",
                "spec.devices.requests[1].firstAvailable[0].selectors[1].cel.expression",
            ]
        );
        assert_eq!(
            named("resourceclaimtemplates", json!({"spec": {"spec": claim}})).len(),
            2
        );
    }
}
