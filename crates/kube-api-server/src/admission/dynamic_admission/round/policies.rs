//! Policies in the admission of a request, and the objects that they and webhooks change.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

use admission_rules::{
    AdmissionObjects, EvaluationFailure, MutatingPolicy, ParameterSource, Patch, Policies,
    PolicyFailures, PolicyJudgement, RuleError,
};
use json_tree::Value;
use object_model::Status;
use openapi_documents::Schema;
use resource_kinds::DecodeError;
use structured_merge::apply::{OverlayError, overlay};
use structured_merge::{PatchError, json_patch};
use thiserror::Error;

use super::responses::ResponseError;
use super::{AdmissionReviewer, name_kind};
use crate::catalog::snapshot::Snapshot;
use crate::http::audit_annotations::AnnotationLevel;
use crate::objects::metadata;
use crate::objects::storage::reading;
use crate::objects::write_request::complaints;

/// The reason why a mutation of a webhook or policy is refused.
#[derive(Debug, Error)]
pub(super) enum MutationError {
    #[error("it is no object any longer")]
    NotObject,
    /// A field of the metadata.
    #[error("it may not change metadata.{0}")]
    Identity(&'static str),
    #[error(transparent)]
    Form(#[from] DecodeError),
    #[error(transparent)]
    Response(#[from] ResponseError),
    #[error(transparent)]
    Rule(#[from] RuleError),
    #[error("JSON Patch: {0}")]
    JsonPatch(PatchError),
    #[error("Resource kind {0} not found")]
    UnknownKind(String),
    #[error("error applying patch: {0}")]
    Apply(OverlayError),
    #[error("strict decoding error: {0}")]
    Strict(String),
}

impl MutationError {
    /// The kind of the failure, for metrics.
    fn failure(&self) -> EvaluationFailure {
        match self {
            Self::Rule(error) => EvaluationFailure::of_rule(error),
            _ => EvaluationFailure::Invalid,
        }
    }
}

impl AdmissionReviewer<'_> {
    /// Stores a mutated object, which is in the version with this index, as the new object; returns whether the
    /// object changed.
    ///
    /// *Errors.* The error of the conversion.
    pub(super) fn store_mutated(
        &self,
        index: usize,
        mutated: Value,
        object: &mut Value,
    ) -> Result<bool, MutationError> {
        let mut mutated = mutated;
        if !mutated.is_object() {
            return Err(MutationError::NotObject);
        }
        // A mutation cannot change the kind.
        name_kind(&mut mutated, self.kind(self.resource(index)));
        if self.is_whole() {
            mutated = self.write_request.resource.kind.decode(mutated)?;
            for field in ["name", "namespace", "uid"] {
                if metadata::text(&mutated, field) != metadata::text(object, field) {
                    return Err(MutationError::Identity(field));
                }
            }
        }
        let differs = mutated != *object;
        *object = mutated;
        Ok(differs)
    }

    /// Runs the mutations of a policy; returns whether the object changed. Failures of the policy are added to the
    /// list.
    ///
    /// *Errors.* The read of the parameters or the conversion webhook of the kind failed.
    pub(super) async fn by_policy(
        &self,
        policy: &MutatingPolicy,
        object: &mut Value,
        failures: &mut PolicyFailures,
    ) -> Result<bool, Status> {
        if object.is_null() {
            return Ok(false);
        }
        let served = self.objects.catalog.snapshot();
        let original = self.request(0, "", object, self.old);
        let match_result = reading(self.objects, |reads| {
            let cluster = ParameterSource {
                objects: reads,
                plural_of: &plural_of(&served),
            };
            Ok(policy.match_request(&original, &self.subjects(), &cluster))
        })?;
        let (index, all) = match match_result {
            Ok(Some(matched)) => matched,
            Ok(None) => return Ok(false),
            Err(error) => {
                failures.add_configuration(policy, &error);
                return Ok(false);
            }
        };
        let old = self.in_version(index, self.old).await?;
        let converted = self.in_version(index, object).await?;
        let objects = match (converted, old) {
            (Ok(object), Ok(old)) => AdmissionObjects { object, old },
            (Err(error), _) | (_, Err(error)) => {
                failures.add(policy, &error);
                return Ok(false);
            }
        };
        let mutated = self.mutated(policy, index, &all, objects, failures);
        let mutated = self.in_version_of_request(index, mutated).await?;
        let result = self.store_mutated(index, mutated, object);
        Ok(result.unwrap_or_else(|error| {
            failures.add(policy, &error);
            false
        }))
    }

    /// The object, in the version with this index, after all mutations of a policy that succeed.
    fn mutated(
        &self,
        policy: &MutatingPolicy,
        index: usize,
        all_settings: &[Value],
        objects: AdmissionObjects,
        failures: &mut PolicyFailures,
    ) -> Value {
        let AdmissionObjects {
            object: mut mutated,
            old,
        } = objects;
        for settings in all_settings {
            let request = self.request(index, "", &mutated, &old);
            match policy.applies(&request, settings) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    failures.add(policy, &error);
                    continue;
                }
            }
            for number in 0..policy.changes() {
                let request = self.request(index, "", &mutated, &old);
                let started = Instant::now();
                let patched = policy
                    .change(number, &request, settings)
                    .map_err(MutationError::from)
                    .and_then(|patch| match patch {
                        None => Ok(None),
                        Some(patch) => self.patched(index, &mutated, patch),
                    });
                let failure = patched.as_ref().err().map(MutationError::failure);
                let metrics = &self.objects.policy_metrics;
                metrics.mutated(policy.names(), failure, started.elapsed());
                match patched {
                    Ok(Some(patched)) => mutated = patched,
                    Ok(None) => {}
                    Err(error) => failures.add(policy, &error),
                }
            }
        }
        mutated
    }

    /// The object, in the version with this index, after a policy's mutation; `None` if the object is unchanged.
    fn patched(
        &self,
        index: usize,
        object: &Value,
        patch: Patch,
    ) -> Result<Option<Value>, MutationError> {
        let resource = self.resource(index);
        let kind = self.kind(resource);
        let mut mutated = match patch {
            Patch::Json(patch) => match json_patch(object.clone(), &patch) {
                Ok(mutated) => mutated,
                // A failed `test` operation means that the patch does not apply to this object.
                Err(PatchError::TestFailed(_)) => return Ok(None),
                Err(error) => return Err(MutationError::JsonPatch(error)),
            },
            Patch::Apply(mut config) => {
                name_kind(&mut config, kind);
                let schema = match self.own_kind() {
                    None => resource.schema(),
                    Some(_) => Schema::published(),
                };
                let object_type = schema.lookup(kind.group, kind.version, kind.kind);
                let object_type =
                    object_type.ok_or_else(|| MutationError::UnknownKind(kind.kind.to_owned()))?;
                let merged = overlay(object, &config, object_type);
                merged.map_err(MutationError::Apply)?
            }
        };
        if self.is_whole() {
            let problems = complaints(resource, &mutated, &[]);
            if !problems.is_empty() {
                return Err(MutationError::Strict(problems.join(", ")));
            }
            mutated = resource.kind.decode(mutated)?;
            resource.kind.default(&mut mutated);
        }
        Ok(Some(mutated))
    }

    /// Runs the validating policies.
    ///
    /// *Errors.* The refusal of a policy; the conversion webhook of the kind failed.
    pub(super) async fn by_rules(&self, policies: &Policies, object: &Value) -> Result<(), Status> {
        if policies.is_empty() {
            return Ok(());
        }
        let mut views: BTreeMap<usize, AdmissionObjects> = BTreeMap::new();
        let judgement = loop {
            let (judgement, missing) = self.judged(policies, object, &views)?;
            let Some(index) = missing else {
                break judgement;
            };
            // The policies are evaluated again with the objects in this version.
            let form = |error: DecodeError| Status::internal(error.to_string());
            let old = self.in_version(index, self.old).await?.map_err(form)?;
            let object = self.in_version(index, object).await?.map_err(form)?;
            views.insert(index, AdmissionObjects { object, old });
        };
        for (key, value) in &judgement.annotations {
            self.write_request
                .annotate(key, value, AnnotationLevel::Metadata);
        }
        self.write_request.warn(judgement.warnings);
        judgement.denied.map_or(Ok(()), Err)
    }

    /// The judgement of the policies, and the index of a version that they need and that only the webhook of the kind
    /// can give; `views` are the objects in the versions that are known.
    fn judged(
        &self,
        policies: &Policies,
        object: &Value,
        views: &BTreeMap<usize, AdmissionObjects>,
    ) -> Result<(PolicyJudgement, Option<usize>), Status> {
        let served = self.objects.catalog.snapshot();
        let missing = Cell::new(None);
        let converted_to = |index: usize| {
            if let Some(AdmissionObjects { object, old }) = views.get(&index) {
                let (object, old) = (object.clone(), old.clone());
                return Ok(AdmissionObjects { object, old });
            }
            if self.needs_webhook(index, object) || self.needs_webhook(index, self.old) {
                missing.set(Some(index));
                return Err(DecodeError::NotObject);
            }
            Ok(AdmissionObjects {
                object: self.converted(index, object)?,
                old: self.converted(index, self.old)?,
            })
        };
        let request = self.request(0, "", object, self.old);
        let judgement = reading(self.objects, |reads| {
            let cluster = ParameterSource {
                objects: reads,
                plural_of: &plural_of(&served),
            };
            let observer = &self.objects.policy_metrics;
            Ok(policies.judge(
                &request,
                &self.subjects(),
                &converted_to,
                &cluster,
                observer,
            ))
        })?;
        Ok((judgement, missing.into_inner()))
    }
}

/// Group and plural of a served kind, by API version and kind name.
fn plural_of(served: &Snapshot) -> impl Fn(&str, &str) -> Option<(String, String)> + '_ {
    |version, kind| {
        let resource = served.registry.of_kind(version, kind)?;
        let info = resource.info();
        Some((info.group.to_owned(), info.plural.to_owned()))
    }
}
