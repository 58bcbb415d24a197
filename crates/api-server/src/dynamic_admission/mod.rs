//! Admission by others: webhooks, which may change what is written or refuse it, and policies,
//! which refuse. What they are told and what is made of it is decided in `admission-rules`.
//!
//! Their own objects are beyond them, so that a mistake in one can always be put right; so are the
//! server's own writes at its start, and actions on an object that are no write of it by a client
//! (`binding`, `finalize`).

mod call;

use std::sync::{Arc, PoisonError};

use admission_rules::{Policies, Request, Scope, Target, Verdict, Webhook, verdict, webhooks};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_model::Status;
use resource_kinds::Lookup;
use resource_kinds::admission::Operation;
use resource_kinds::admissionregistration::GROUP;
use resource_kinds::info::SCALE;
use serde_json::{Value, json};
use structured_merge::json_patch;

use crate::metadata;
use crate::registry::Resource;
use crate::server::ApiServer;
use crate::storage::SyncReads;
use crate::writes::{Attempt, admit};

/// Who else has a say at the moment.
#[derive(Default)]
pub(crate) struct Registrations {
    mutating: Vec<Webhook>,
    validating: Vec<Webhook>,
    policies: Policies,
}

impl Registrations {
    fn concern(&self, attempt: &Attempt<'_>) -> bool {
        let nobody =
            self.mutating.is_empty() && self.validating.is_empty() && self.policies.is_empty();
        !nobody && attempt.resource.info().group != GROUP
    }
}

impl ApiServer {
    /// Takes notice of changed webhooks and policies: whoever has been told of a change finds it in
    /// force.
    pub(crate) fn follow_registrations(&self) {
        // Held while the objects are read, so that what was read later is never replaced by older.
        let mut current = self
            .registrations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let reads = SyncReads(self);
        let list = |plural: &str| reads.list(GROUP, plural, "");
        let policies = list("validatingadmissionpolicies");
        let bindings = list("validatingadmissionpolicybindings");
        *current = Arc::new(Registrations {
            mutating: webhooks(&list("mutatingwebhookconfigurations")),
            validating: webhooks(&list("validatingwebhookconfigurations")),
            policies: Policies::new(&policies, &bindings),
        });
    }

    fn registrations(&self) -> Arc<Registrations> {
        let current = self.registrations.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs the built-in plug-ins, then asks the webhooks that may change the object; returns advice.
///
/// *Errors.* A refusal, by whoever; 500 where a webhook that must answer does not.
pub(crate) async fn admit_and_change(
    server: &ApiServer,
    attempt: &Attempt<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<Vec<String>, Status> {
    let advice = admit(server, attempt, operation, object, old)?;
    let registrations = server.registrations();
    if registrations.mutating.is_empty() || !registrations.concern(attempt) || is_scale(attempt) {
        return Ok(advice);
    }
    let mut round = Round::new(server, attempt, operation, old);
    let mut last_change = None;
    for (place, webhook) in registrations.mutating.iter().enumerate() {
        if round.change(webhook, object).await? {
            last_change = Some(place);
        }
    }
    let Some(last_change) = last_change else {
        return Ok([advice, round.warnings].concat());
    };
    // What came after others had looked is shown to them once more, where they ask for it.
    attempt.resource.kind.default(object);
    let advice = admit(server, attempt, operation, object, old)?;
    for webhook in registrations.mutating.iter().take(last_change) {
        if webhook.asked_again {
            round.change(webhook, object).await?;
        }
    }
    Ok([advice, round.warnings].concat())
}

/// Asks the policies and the webhooks that may refuse; returns what the client is told.
///
/// *Errors.* As [`admit_and_change`].
pub(crate) async fn validate(
    server: &ApiServer,
    attempt: &Attempt<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) -> Result<Vec<String>, Status> {
    let registrations = server.registrations();
    if !registrations.concern(attempt) {
        return Ok(Vec::new());
    }
    let kind = &attempt.resource.kind;
    let scales =
        is_scale(attempt).then(|| (kind.scale(object), old.and_then(|old| kind.scale(old))));
    let (object, old) = match &scales {
        Some((Some(object), old)) => (object, old.as_ref()),
        _ => (object, old),
    };
    let mut round = Round::new(server, attempt, operation, old);
    round.judge(&registrations.policies, object)?;
    for webhook in &registrations.validating {
        round.ask(webhook, object).await?;
    }
    Ok(round.warnings)
}

fn is_scale(attempt: &Attempt<'_>) -> bool {
    attempt.subresource == SCALE.name
}

/// One write, about which others are asked.
struct Round<'a> {
    server: &'a ApiServer,
    attempt: &'a Attempt<'a>,
    operation: &'static str,
    old: Option<&'a Value>,
    namespace: Value,
    /// The resource, and those that have the same objects in other versions.
    versions: Vec<Arc<Resource>>,
    warnings: Vec<String>,
}

impl<'a> Round<'a> {
    fn new(
        server: &'a ApiServer,
        attempt: &'a Attempt<'a>,
        operation: Operation,
        old: Option<&'a Value>,
    ) -> Self {
        let namespace = match attempt.namespace {
            "" => None,
            name => SyncReads(server).get("", "namespaces", "", name),
        };
        let own = attempt.resource.info();
        let registry = &server.served().registry;
        let same = |one: &&Arc<Resource>| {
            let info = one.info();
            info.storage == own.storage && info.api_version() != own.api_version()
        };
        Self {
            server,
            attempt,
            operation: match operation {
                Operation::Create => "CREATE",
                Operation::Update => "UPDATE",
                Operation::Delete => "DELETE",
            },
            old,
            namespace: namespace.unwrap_or_default(),
            versions: registry.resources().filter(same).cloned().collect(),
            warnings: Vec::new(),
        }
    }

    fn target<'r>(&self, resource: &'r Resource) -> Target<'r>
    where
        'a: 'r,
    {
        let info = resource.info();
        Target {
            group: info.group,
            version: info.version,
            plural: info.plural,
            subresource: self.attempt.subresource,
            scope: if resource.namespaced() {
                Scope::Namespaced
            } else {
                Scope::Cluster
            },
        }
    }

    fn targets(&self) -> Vec<Target<'_>> {
        let own = self.target(self.attempt.resource);
        let others = self.versions.iter().map(|resource| self.target(resource));
        std::iter::once(own).chain(others).collect()
    }

    fn request<'r>(&'r self, uid: &'r str, object: &'r Value) -> Request<'r> {
        let attempt = self.attempt;
        let kind = match self.operation {
            "CREATE" => "CreateOptions",
            "UPDATE" => "UpdateOptions",
            _ => "DeleteOptions",
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if kind != "DeleteOptions" && !attempt.manager.is_empty() {
            options["fieldManager"] = json!(attempt.manager);
        }
        if attempt.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        Request {
            uid,
            operation: self.operation,
            target: self.target(attempt.resource),
            kind: if is_scale(attempt) {
                SCALE.kind
            } else {
                attempt.resource.info().kind
            },
            namespace: attempt.namespace,
            name: attempt.name,
            user: attempt.user.to_json(),
            object,
            old: self.old.unwrap_or(&Value::Null),
            dry_run: attempt.dry_run,
            options,
            namespace_object: &self.namespace,
        }
    }

    /// Lets a webhook change the object; whether it did.
    async fn change(&mut self, webhook: &Webhook, object: &mut Value) -> Result<bool, Status> {
        let Some((version, patch)) = self.answer(webhook, object).await? else {
            return Ok(false);
        };
        let Some(patch) = patch else { return Ok(false) };
        let broken = |why: String| failed(webhook, &why);
        let decoded = STANDARD
            .decode(patch)
            .map_err(|error| broken(error.to_string()))?;
        let patch: Value =
            serde_json::from_slice(&decoded).map_err(|error| broken(error.to_string()))?;
        let seen = self.in_version(version, object)?;
        let changed = json_patch(seen.clone(), &patch);
        let mut changed = changed.map_err(|error| broken(error.to_string()))?;
        // What it is it stays, whatever the patch says of it.
        for field in ["apiVersion", "kind"] {
            if let Some(map) = changed.as_object_mut() {
                map.insert(field.to_owned(), seen[field].clone());
            }
        }
        let changed = self.attempt.resource.kind.decode(changed).map_err(broken)?;
        for field in ["name", "namespace", "uid"] {
            if metadata::text(&changed, field) != metadata::text(object, field) {
                return Err(broken(format!("it may not change metadata.{field}")));
            }
        }
        let differs = changed != *object;
        *object = changed;
        Ok(differs)
    }

    /// Lets a webhook refuse.
    async fn ask(&mut self, webhook: &Webhook, object: &Value) -> Result<(), Status> {
        self.answer(webhook, object).await.map(|_| ())
    }

    /// What a webhook answers: the version it was asked about, and a patch. `None` if it has no
    /// say, or could not be asked and need not.
    async fn answer(
        &mut self,
        webhook: &Webhook,
        object: &Value,
    ) -> Result<Option<(usize, Option<String>)>, Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = self.request(&uid, object);
        let wanted = webhook.wants(&request, &self.targets());
        let Some(version) = wanted.map_err(|why| failed(webhook, &why))? else {
            return Ok(None);
        };
        let review = self.review(webhook, version, &request)?;
        let answer = call::ask(self.server, webhook, &review).await;
        match answer.and_then(|answer| verdict(webhook, &uid, &answer)) {
            Ok(Verdict::Allowed { patch, warnings }) => {
                self.warnings.extend(warnings);
                Ok(Some((version, patch)))
            }
            // A refusal goes out without warnings: it says all.
            Ok(Verdict::Denied { status, .. }) => Err(status),
            Err(why) if webhook.must_answer => Err(failed(webhook, &why)),
            Err(why) => {
                tracing::warn!(webhook = webhook.name, %why, "a webhook did not answer");
                Ok(None)
            }
        }
    }

    /// The question, about the object in the version that the webhook wants.
    fn review(
        &self,
        webhook: &Webhook,
        version: usize,
        request: &Request<'_>,
    ) -> Result<Value, Status> {
        if version == 0 {
            return Ok(admission_rules::review(webhook, request));
        }
        let object = self.in_version(version, request.object)?;
        let old = self.in_version(version, request.old)?;
        let resource = self.versions.get(version - 1);
        let other = resource.map_or(self.attempt.resource, |resource| resource.as_ref());
        let mut review = admission_rules::review(
            webhook,
            &Request {
                object: &object,
                old: &old,
                target: self.target(other),
                kind: other.info().kind,
                ..request.clone()
            },
        );
        // What the client asked for stands beside what the webhook is told.
        let asked = request.facts();
        for field in ["requestKind", "requestResource"] {
            review["request"][field] = asked[field].clone();
        }
        Ok(review)
    }

    /// The object in another version.
    fn in_version(&self, version: usize, object: &Value) -> Result<Value, Status> {
        let other = version.checked_sub(1).and_then(|at| self.versions.get(at));
        match other {
            Some(other) if object.is_object() => {
                let seen = other.kind.decode(object.clone());
                seen.map_err(Status::internal)
            }
            _ => Ok(object.clone()),
        }
    }

    fn judge(&mut self, policies: &Policies, object: &Value) -> Result<(), Status> {
        if policies.is_empty() {
            return Ok(());
        }
        let served = self.server.served();
        let plural_of = |version: &str, kind: &str| {
            let found = served.registry.of_kind(version, kind)?;
            let info = found.info();
            Some((info.group.to_owned(), info.plural.to_owned()))
        };
        let reads = SyncReads(self.server);
        let request = self.request("", object);
        let judgement = policies.judge(&request, &self.targets(), &reads, &plural_of);
        for complaint in &judgement.audited {
            tracing::info!(%complaint, "a policy does not allow a write");
        }
        self.warnings.extend(judgement.warnings);
        judgement.denied.map_or(Ok(()), Err)
    }
}

/// A webhook that must answer did not, or not in a way that can be understood.
fn failed(webhook: &Webhook, why: &str) -> Status {
    Status::internal(format!("failed calling webhook {:?}: {why}", webhook.name))
}
