//! The webhooks and policies in force.

use std::sync::{Arc, PoisonError, RwLock};

use admission_rules::{MutatingPolicies, MutatingPolicy, Policies, Webhook, webhooks};
use object_model::Status;
use resource_kinds::admissionregistration::GROUP;

use crate::admission::plugins::Plugins;
use crate::objects::storage::{Objects, reading};
use crate::objects::write_request::WriteRequest;

/// A mutating webhook or policy.
pub(super) enum MutationStep<'a> {
    Policy(&'a MutatingPolicy),
    /// A webhook, with its index among the mutating webhooks.
    Hook(usize, &'a Webhook),
}

impl MutationStep<'_> {
    /// Whether the step is called again after other changes of the object (`reinvocationPolicy`).
    pub(super) fn is_reinvoked(&self) -> bool {
        match self {
            Self::Policy(policy) => policy.is_reinvoked(),
            Self::Hook(_, webhook) => webhook.is_reinvoked,
        }
    }
}

#[derive(Default)]
pub(crate) struct Registrations {
    pub(super) changing: MutatingPolicies,
    pub(super) mutating: Vec<Webhook>,
    pub(super) validating: Vec<Webhook>,
    pub(super) policies: Policies,
    /// The error of the last read of the configurations.
    unreadable: Option<Status>,
}

impl Registrations {
    /// Whether a webhook or policy applies to a write.
    ///
    /// *Errors.* 500 if the registrations could not be read.
    pub(super) fn concern(&self, request: &WriteRequest<'_>) -> Result<bool, Status> {
        if request.is_reviewed || request.resource.info().group == GROUP {
            return Ok(false);
        }
        if let Some(status) = &self.unreadable {
            return Err(status.clone());
        }
        let nobody =
            self.steps().next().is_none() && self.validating.is_empty() && self.policies.is_empty();
        Ok(!nobody)
    }

    /// The mutating policies and webhooks in their order of execution.
    pub(super) fn steps(&self) -> impl Iterator<Item = MutationStep<'_>> {
        let policies = self.changing.iter().map(MutationStep::Policy);
        policies.chain(self.hooks())
    }

    /// The mutating webhooks in their order of execution.
    pub(super) fn hooks(&self) -> impl Iterator<Item = MutationStep<'_>> {
        let hooks = self.mutating.iter().enumerate();
        hooks.map(|(index, webhook)| MutationStep::Hook(index, webhook))
    }
}

/// All admission: the built-in plug-ins, webhooks and policies.
pub(crate) struct Admission {
    pub(crate) plugins: Plugins,
    registrations: RwLock<Arc<Registrations>>,
    pub(super) objects: Arc<Objects>,
}

impl Admission {
    /// Without webhooks and policies until the first call of [`follow_registrations`](Self::follow_registrations).
    pub(crate) fn new(plugins: Plugins, objects: Arc<Objects>) -> Self {
        Self {
            plugins,
            registrations: RwLock::default(),
            objects,
        }
    }

    /// Reads changed webhooks and policies. They are in force when the call returns.
    pub(crate) fn follow_registrations(&self) {
        // The lock is held during the read, so that an older read never replaces a newer result.
        let mut current = self
            .registrations
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let read = reading(&self.objects, |reads| {
            let list = |plural: &str| reads.all(GROUP, plural, "");
            let changing = list("mutatingadmissionpolicies");
            let policies = list("validatingadmissionpolicies");
            let bindings = list("mutatingadmissionpolicybindings");
            Ok(Registrations {
                changing: MutatingPolicies::new(&changing, &bindings),
                mutating: webhooks(&list("mutatingwebhookconfigurations")),
                validating: webhooks(&list("validatingwebhookconfigurations")),
                policies: Policies::new(&policies, &list("validatingadmissionpolicybindings")),
                unreadable: None,
            })
        });
        // If the registrations are unreadable, all writes that they could concern must fail: otherwise the server
        // would allow too much.
        let read = read.unwrap_or_else(|status| Registrations {
            unreadable: Some(status),
            ..Registrations::default()
        });
        *current = Arc::new(read);
    }

    pub(super) fn registrations(&self) -> Arc<Registrations> {
        let current = self.registrations.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
