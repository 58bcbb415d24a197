//! Patch: JSON patch, merge patch, strategic merge patch; server-side apply has its own file.

use http::StatusCode;
use json_tree::Value;
use object_model::{FieldError, FieldPath, Status, StatusReason};
use openapi_documents::Schema;
use resource_kinds::KindInfo;
use structured_merge::{PatchError, json_patch, merge_patch, strategic_merge_patch};

use super::apply::{self, APPLY};
use super::update::update;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::writer::Writer;
use crate::http::call::Call;
use crate::http::decode::{Decoded, json, unsupported};
use crate::http::negotiate::content_type;
use crate::http::reply::Reply;
use crate::objects::metadata;
use crate::objects::write_request::ObjectPart;
use crate::objects::write_request::{
    EditedFields, Validation, WriteOptions, WriteRequest, accept, complaints,
};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

pub(crate) const FORMS: [&str; 4] = [JSON_PATCH, MERGE_PATCH, STRATEGIC, APPLY];

/// The patch formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Merge,
    Strategic,
}

/// A decoded patch: JSON patch, merge patch or strategic merge patch.
pub(crate) struct Patch<'b> {
    form: Form,
    /// `None` after the patch was merged into an object.
    value: Option<Value>,
    duplicates: Vec<String>,
    /// The unknown and duplicate members of the operations of a JSON patch, as texts.
    operation_problems: Vec<String>,
    bytes: &'b [u8],
}

impl<'b> Patch<'b> {
    /// Decodes a patch by its content type.
    ///
    /// *Errors.* 415 for an unsupported content type; 400 if the patch cannot be parsed.
    pub(crate) fn parse(call: &Call, bytes: &'b [u8]) -> Result<Self, Status> {
        let form = match content_type(&call.parts.headers).as_str() {
            JSON_PATCH => Form::Json,
            MERGE_PATCH => Form::Merge,
            STRATEGIC => Form::Strategic,
            _ => return Err(unsupported(&FORMS)),
        };
        let Decoded { value, duplicates } = json(bytes)
            .map_err(|text| Status::bad_request(format!("error decoding patch: {text}")))?;
        if form != Form::Json && !value.is_object() {
            return Err(Status::bad_request(
                "error decoding patch: the patch is not an object",
            ));
        }
        let (duplicates, operation_problems) = match form {
            Form::Json => (Vec::new(), operation_problems(&value, &duplicates)),
            Form::Merge | Form::Strategic => (duplicates, Vec::new()),
        };
        Ok(Self {
            form,
            value: Some(value),
            duplicates,
            operation_problems,
            bytes,
        })
    }

    /// The text of the patch, for error messages.
    fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes).into_owned()
    }

    /// Returns the patch. A second call, which a retry after a conflict makes, decodes the text again.
    fn next_value(&mut self) -> Result<Value, Status> {
        match self.value.take() {
            Some(value) => Ok(value),
            None => match json(self.bytes) {
                Ok(decoded) => Ok(decoded.value),
                Err(text) => Err(Status::internal(format!("decode a patch again: {text}"))),
            },
        }
    }

    /// The document after the patch.
    pub(crate) fn apply(
        &mut self,
        schema: &Schema,
        info: &KindInfo<'_>,
        old: &Value,
    ) -> Result<Value, Status> {
        let patched = match self.form {
            Form::Json => json_patch(old.clone(), &self.next_value()?),
            Form::Merge => merge_patch(old.clone(), self.next_value()?),
            Form::Strategic => {
                // kube-apiserver has these error texts for built-in kinds only.
                let published = std::ptr::eq(schema, Schema::published());
                let object_type = schema.lookup(info.group, info.version, info.kind);
                match object_type.filter(|_| published) {
                    Some(object_type) => {
                        strategic_merge_patch(old.clone(), self.next_value()?, object_type)
                    }
                    None => return Err(unsupported(&[JSON_PATCH, MERGE_PATCH])),
                }
            }
        };
        patched.map_err(|error: PatchError| error.status())
    }

    /// The fields that the patch reads and edits. A patch of the status may contain fields of other parts of the
    /// object, too.
    fn extent(&self, part: ObjectPart) -> EditedFields {
        let names = |allowed: &[&str]| {
            let map = self.value.as_ref().and_then(Value::as_object);
            let mut names = map.into_iter().flat_map(|map| map.keys());
            names.all(|name| allowed.contains(&name.as_str()))
        };
        match (self.form, part) {
            (Form::Json, ObjectPart::Whole) if self.is_for_metadata() => EditedFields::Metadata,
            (Form::Json, _) => EditedFields::Any,
            (_, ObjectPart::Whole) if names(&["apiVersion", "kind", "metadata"]) => {
                EditedFields::Metadata
            }
            (_, ObjectPart::Status) if !names(&["apiVersion", "kind", "metadata", "status"]) => {
                EditedFields::Any
            }
            _ => EditedFields::Part,
        }
    }

    /// Whether all operations of a JSON patch concern metadata fields other than the managed fields.
    fn is_for_metadata(&self) -> bool {
        let is_within = |pointer: &Value| {
            let field = pointer
                .as_str()
                .and_then(|text| text.strip_prefix("/metadata/"));
            field.is_some_and(|field| !field.starts_with("managedFields"))
        };
        let operations = self.value.as_ref().and_then(Value::as_array);
        operations.is_some_and(|all| {
            all.iter()
                .all(|one| is_within(&one["path"]) && one.get("from").is_none_or(is_within))
        })
    }

    /// The error of a patch whose result does not have the form of the object's kind.
    fn unfit(&self, status: Status) -> Status {
        if status.reason != StatusReason::BadRequest {
            return status;
        }
        // The request path contains the kind, so the message need not repeat the kind.
        let why = status.message.split_once(" cannot be handled as a ");
        let why = why.and_then(|(_, rest)| Some(rest.split_once(": ")?.1));
        let why = why.unwrap_or(&status.message).to_owned();
        let error = FieldError::invalid(&FieldPath::root("patch"), self.text(), why);
        Status::invalid("", "", "", &[error])
    }

    /// Refuses unknown and duplicate fields, or returns warnings about them, depending on the requested field
    /// validation.
    pub(crate) fn check(
        &self,
        resource: &Resource,
        patched: &Value,
        validation: Validation,
    ) -> Result<Vec<String>, Status> {
        if validation == Validation::Ignore {
            return Ok(Vec::new());
        }
        let mut problems = self.operation_problems.clone();
        problems.extend(complaints(resource, patched, &self.duplicates));
        if validation == Validation::Warn || problems.is_empty() {
            return Ok(problems);
        }
        let detail = format!("strict decoding error: {}", problems.join(", "));
        let error = FieldError::invalid(&FieldPath::root("patch"), self.text(), detail);
        Err(Status::invalid("", "", "", &[error]))
    }
}

/// Whether a patch is a server-side apply.
/// The unknown members of the operations of a JSON patch (RFC 6902, section 4), and the paths of its duplicate members, as upstream's
/// strict decoder names them.
fn operation_problems(patch: &Value, duplicates: &[String]) -> Vec<String> {
    let operations = patch.as_array().into_iter().flatten().enumerate();
    let members = operations.flat_map(|(index, operation)| {
        let members = operation.as_object().into_iter().flat_map(|map| map.keys());
        members.map(move |member| (index, member))
    });
    let unknown = members
        .filter(|(_, member)| !["op", "path", "from", "value"].contains(&member.as_str()))
        .map(|(index, member)| format!("json patch unknown field \"[{index}].{member}\""));
    let duplicate = duplicates
        .iter()
        .map(|path| format!("json patch duplicate field {path:?}"));
    unknown.chain(duplicate).collect()
}

pub(crate) fn is_apply(call: &Call) -> bool {
    content_type(&call.parts.headers) == APPLY
}

/// Responds to a PATCH request, server-side apply included.
pub(crate) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    bytes: &[u8],
    part: ObjectPart,
) -> Result<Reply, Status> {
    if is_apply(call) {
        return apply::respond(writer, resource, call, bytes, part).await;
    }
    let options = WriteOptions::parse_patch(&call.query, false)?;
    let mut patch = Patch::parse(call, bytes)?;
    let (info, schema) = (resource.info(), resource.schema());
    let extent = patch.extent(part);
    let mut change = |old: &Value| {
        let patched = patch.apply(schema, &info, old)?;
        let warnings = patch.check(resource, &patched, options.validation)?;
        call.warnings.add(warnings);
        metadata::must_name(&patched, &call.info.name)?;
        let accepted = accept(resource, patched.into(), Validation::Ignore);
        let (object, _) = accepted.map_err(|status| patch.unfit(status))?;
        writer.check_escalation(call, resource, &object, Some(old))?;
        Ok(object)
    };
    let request = WriteRequest {
        extent,
        ..WriteRequest::of(call, resource, options)
    };
    let written = update(writer, &request, part, &mut change).await?;
    output::written(call, resource, &written, StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    /// findings-2 E14
    #[test]
    fn unknown_and_duplicate_members_of_operations_are_named() {
        let patch = json!([{"op": "add", "path": "/a", "value": {"foo": 1}, "foo": "bar"},
            {"op": "remove", "path": "/b"}]);
        let problems = operation_problems(&patch, &["[1].path".to_owned()]);
        let expected = [
            r#"json patch unknown field "[0].foo""#,
            r#"json patch duplicate field "[1].path""#,
        ];
        assert_eq!(problems, expected);
        assert_eq!(operation_problems(&json!({}), &[]), [""; 0]);
    }
}
