//! Server-side apply: merges the fields of a manager into the object, or creates the object (kubectl.md 2.4).

use http::StatusCode;
use json_tree::Value;
use object_model::{Status, StatusReason};
use resource_kinds::Verb;

use super::create::create;
use super::update::update;
use crate::access::authorize;
use crate::catalog::registry::Resource;
use crate::handlers::output;
use crate::handlers::writer::Writer;
use crate::http::call::Call;
use crate::http::decode::{self, Decoded};
use crate::http::limits::WRITE_ATTEMPTS_MAX;
use crate::http::refusals::not_allowed;
use crate::http::reply::Reply;
use crate::objects::field_managers;
use crate::objects::manager_versions::ManagerVersions;
use crate::objects::metadata::{self, RequiredVersion};
use crate::objects::write_request::{
    CompletedWrite, ObjectPart, Validation, WriteOptions, WriteRequest, accept,
};

/// The content type of an apply patch: YAML. JSON is valid YAML.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// The configuration that a client sends with server-side apply.
pub(crate) struct Configuration {
    pub(crate) value: Value,
    pub(crate) warnings: Vec<String>,
}

impl Configuration {
    /// Decodes a configuration of the given kind.
    ///
    /// *Errors.* 400 if the text cannot be parsed, is of another kind, or contains duplicate fields.
    pub(crate) fn parse(
        bytes: &[u8],
        api_version: &str,
        kind: &str,
        validation: Validation,
    ) -> Result<Self, Status> {
        let text = |text: String| Status::bad_request(format!("error decoding patch: {text}"));
        let Decoded { value, duplicates } = if bytes.first() == Some(&b'{') {
            decode::json(bytes).or_else(|_| decode::yaml(bytes))
        } else {
            decode::yaml(bytes)
        }
        .map_err(|error| text(error.to_string()))?;
        if !value.is_object() {
            return Err(text("the patch is not an object".to_owned()));
        }
        if value["apiVersion"] != api_version || value["kind"] != kind {
            let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let version = field("apiVersion");
            let slash = if version.contains('/') { "" } else { "/" };
            let kind = field("kind");
            return Err(Status::bad_request(format!(
                "invalid object type: {slash}{version}, Kind={kind}"
            )));
        }
        let warnings: Vec<String> = duplicates
            .iter()
            .map(|path| format!("duplicate field {path:?}"))
            .collect();
        if validation == Validation::Strict && !warnings.is_empty() {
            let text = format!("error strict decoding patch: {}", warnings.join(", "));
            return Err(Status::bad_request(text));
        }
        Ok(Self {
            value,
            warnings: match validation {
                Validation::Warn => warnings,
                Validation::Strict | Validation::Ignore => Vec::new(),
            },
        })
    }
}

/// Responds to a PATCH that is a server-side apply.
pub(super) async fn respond(
    writer: Writer<'_>,
    resource: &Resource,
    call: &Call,
    bytes: &[u8],
    part: ObjectPart,
) -> Result<Reply, Status> {
    let options = WriteOptions::parse_patch(&call.query, true)?;
    let info = resource.info();
    let config = Configuration::parse(bytes, &info.api_version(), info.kind, options.validation)?;
    call.warnings.add(config.warnings);
    let apply = Apply {
        writer,
        resource,
        call,
        part,
        request: WriteRequest {
            applied: true,
            ..WriteRequest::of(call, resource, options)
        },
        config: &config.value,
        force: call.query.flag("force"),
        versions: ManagerVersions::default(),
    };
    let (written, code) = apply.run().await?;
    output::written(call, resource, &written, code)
}

struct Apply<'a> {
    writer: Writer<'a>,
    resource: &'a Resource,
    call: &'a Call,
    part: ObjectPart,
    request: WriteRequest<'a>,
    config: &'a Value,
    force: bool,
    /// The object in the versions of its managers.
    versions: ManagerVersions,
}

impl Apply<'_> {
    /// Updates the object, or creates it if the object does not exist. Retries after a conflict with another writer.
    async fn run(&self) -> Result<(CompletedWrite, StatusCode), Status> {
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let mut change = |old: &Value| self.merged(Some(old));
            let updated = update(self.writer, &self.request, self.part, &mut change).await;
            let objects = self.writer.objects;
            if self.versions.complete(objects, self.resource).await? {
                continue;
            }
            match updated {
                Err(status) if self.creates(&status) => {}
                done => return done.map(|written| (written, StatusCode::OK)),
            }
            match self.create().await {
                Err(status) if status.reason == StatusReason::AlreadyExists => {}
                done => return done.map(|written| (written, StatusCode::CREATED)),
            }
        }
        let why = "it kept coming and going; try again";
        Err(self.resource.conflict(self.request.name, why))
    }

    fn creates(&self, status: &Status) -> bool {
        status.reason == StatusReason::NotFound && self.part == ObjectPart::Whole
    }

    async fn create(&self) -> Result<CompletedWrite, Status> {
        let (config, name) = (self.config, self.request.name);
        if !self.resource.info().verbs.contains(&Verb::Create) {
            return Err(not_allowed());
        }
        let info = self.call.info.with_verb("create");
        authorize::authorize(&self.writer.access.authorizer, &self.call.user, &info)?;
        if let Some(uid) = metadata::uid(config) {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was \
                 found"
            );
            return Err(self.resource.conflict(name, &why));
        }
        if RequiredVersion::of(config) != RequiredVersion::Any {
            let version = metadata::text(config, "resourceVersion");
            let why = format!(
                "the provided object specified resourceVersion {version}, and no existing object \
                 was found"
            );
            return Err(self.resource.conflict(name, &why));
        }
        metadata::must_name(config, name)?;
        create(self.writer, &self.request, self.merged(None)?).await
    }

    fn merged(&self, old: Option<&Value>) -> Result<Value, Status> {
        let (request, part, config) = (&self.request, self.part, self.config);
        let value = field_managers::merge(
            &self.writer.objects.catalog,
            request,
            part,
            config,
            old,
            self.force,
            &self.versions,
        );
        if self.versions.is_incomplete() {
            return Err(Status::internal("the object is not converted yet"));
        }
        let value = value?;
        let (object, _) = accept(self.resource, value.into(), Validation::Ignore)?;
        self.writer
            .check_escalation(self.call, self.resource, &object, old)?;
        Ok(object)
    }
}
