//! The controller of CertificateSigningRequests: approves requests of nodes, signs with the
//! cluster's certificate authority, and deletes old requests.

use std::sync::Arc;
use std::time::Duration;

use certificates::{ApprovedRequest, ClientSubject, LIFE_MAX, Usage as Granted};
use controller_framework::{Cache, Queue, ReconcileResult, object_key};
use controller_planners::certificate_signing::{
    CertificateSigningAction, NodeCertificateContext, Usage, asks_for_node, failed, plan,
};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition as Condition,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube_api_client::guarded_writes::{self, Delete, chain};
use kube_api_client::{Api, PostParams, ResourceExt};
use object_model::ObjectKey;
use resource_kinds::MetadataIdentity;
use resource_kinds::certificates::{GROUP, Request};
use resource_kinds::namespaces::NODE_LEASES;

use crate::Context;
use crate::api_error::{self, ApiError};

struct Worker {
    context: Context,
    requests: Cache<CertificateSigningRequest>,
    nodes: Cache<Node>,
    api: Api<CertificateSigningRequest>,
}

pub(crate) async fn run(context: Context) {
    let controller = Worker {
        requests: context.cache(),
        nodes: context.caches.nodes.clone(),
        api: Api::all(context.client.clone()),
        context: context.clone(),
    };
    context.run("certificate", controller).await;
}

impl controller_framework::Controller for Worker {
    type Key = ObjectKey;
    type Error = ApiError;

    /// Requests processed at once.
    const WORKERS: usize = 2;

    async fn wait_synced(&self) -> bool {
        self.requests.wait_synced().await && self.nodes.wait_synced().await
    }

    /// Queues new and changed requests, because users and other controllers write decisions into the status. When a
    /// node changes, the undecided requests of all nodes are checked, because an address of the node may be free now.
    async fn feed(&self, queue: &Queue<ObjectKey>) {
        let mut requests = self.requests.subscribe();
        let mut nodes = self.nodes.subscribe();
        loop {
            tokio::select! {
                Some(change) = requests.next() => queue.add(object_key(change.object().as_ref())),
                Some(_) = nodes.next() => {
                    let all = self.requests.list();
                    for request in all.iter().filter(|one| asks_for_node(one).is_some()) {
                        queue.add(object_key(request.as_ref()));
                    }
                }
                else => return,
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<ReconcileResult, ApiError> {
        let Some(request) = self.requests.get_key(key) else {
            return Ok(ReconcileResult::Done);
        };
        let now = Timestamp::now();
        let nodes = self.nodes.list();
        let around = NodeCertificateContext {
            nodes: &nodes,
            heartbeat: self.heartbeat(&request, &nodes).await?,
            server: &self.context.config.server_names.get(),
        };
        let plan = plan(&request, &around, now);
        match plan.action {
            None => {}
            Some(CertificateSigningAction::Delete) => {
                let uid = request.metadata.object_uid();
                let uid = uid.map_err(api_error::failed("delete a certificate request"))?;
                let deleted =
                    guarded_writes::delete(&self.api, &key.name, Delete::of_uid(uid)).await;
                deleted.map_err(api_error::failed("delete a certificate request"))?;
            }
            Some(CertificateSigningAction::ApproveIf(rights)) => {
                self.approve(&request, rights).await?
            }
            Some(CertificateSigningAction::Deny(condition)) => {
                let changed = with_condition(&request, condition);
                self.write(&changed, "approval").await?;
            }
            Some(CertificateSigningAction::Sign {
                request: parsed,
                usages,
                seconds,
            }) => {
                self.sign(&request, approved(&parsed, &usages, seconds), now)
                    .await?;
            }
            Some(CertificateSigningAction::Fail(condition)) => {
                self.fail(&request, condition).await?
            }
        }
        let wait = plan.wake_at.map(|at| at.duration_since(now));
        let wait = wait.map(|wait| Duration::try_from(wait).unwrap_or_default());
        Ok(ReconcileResult::from(wait))
    }
}

impl Worker {
    /// The last renewal of the lease of the node that an undecided request names.
    async fn heartbeat(
        &self,
        request: &CertificateSigningRequest,
        nodes: &[Arc<Node>],
    ) -> Result<Option<Timestamp>, ApiError> {
        let exists = |name: &String| {
            let mut nodes = nodes.iter();
            nodes.any(|node| node.metadata.name.as_ref() == Some(name))
        };
        let Some(name) = asks_for_node(request).filter(exists) else {
            return Ok(None);
        };
        let leases: Api<Lease> = Api::namespaced(self.context.client.clone(), NODE_LEASES);
        let renewed_lease = leases.get_opt(&name).await;
        let lease = renewed_lease.map_err(api_error::failed("read the lease of a node"))?;
        let renewed = lease.and_then(|lease| lease.spec?.renew_time);
        Ok(renewed.map(|time| time.0))
    }

    async fn approve(
        &self,
        request: &CertificateSigningRequest,
        rights: Vec<(&'static str, Condition)>,
    ) -> Result<(), ApiError> {
        for (right, condition) in rights {
            if self.may(request, right).await? {
                let changed = with_condition(request, condition);
                return self.write(&changed, "approval").await;
            }
        }
        Ok(())
    }

    /// Whether the requester has the right to automatic approval.
    async fn may(
        &self,
        request: &CertificateSigningRequest,
        right: &str,
    ) -> Result<bool, ApiError> {
        let spec = &request.spec;
        let review = json!({ "spec": {
            "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
            "resourceAttributes": { "group": GROUP, "resource": "certificatesigningrequests",
                "subresource": right, "verb": "create" },
        }});
        let review: SubjectAccessReview = json_tree::from_value(review)
            .map_err(kube_api_client::Error::Json)
            .map_err(api_error::failed("check the requester's rights"))?;
        let reviews: Api<SubjectAccessReview> = Api::all(self.context.client.clone());
        let response = reviews.create(&PostParams::default(), &review).await;
        let response = response.map_err(api_error::failed("check the requester's rights"))?;
        Ok(response.status.is_some_and(|status| status.allowed))
    }

    async fn sign(
        &self,
        request: &CertificateSigningRequest,
        approved: ApprovedRequest<'_>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let Some(authority) = &self.context.config.authority else {
            return Ok(());
        };
        match authority.sign(&approved) {
            Ok(certificate) => {
                let mut changed = request.clone();
                let status = changed.status.get_or_insert_default();
                status.certificate = Some(ByteString(certificate.into_bytes()));
                self.write(&changed, "status").await
            }
            Err(error) => {
                let condition = failed(chain(&error), now);
                self.fail(request, condition).await
            }
        }
    }

    async fn fail(
        &self,
        request: &CertificateSigningRequest,
        condition: Condition,
    ) -> Result<(), ApiError> {
        let changed = with_condition(request, condition);
        self.write(&changed, "status").await
    }

    /// Writes over the observed resourceVersion; after a conflict the request is planned again.
    async fn write(
        &self,
        request: &CertificateSigningRequest,
        subresource: &'static str,
    ) -> Result<(), ApiError> {
        let name = request.name_any();
        let params = PostParams::default();
        let written = match subresource {
            "status" => self.api.replace_status(&name, &params, request).await,
            _ => {
                let written = self
                    .api
                    .replace_subresource(subresource, &name, &params, request);
                written.await
            }
        };
        let written = guarded_writes::unless_outrun(written);
        written
            .map(drop)
            .map_err(api_error::failed("write a certificate request"))
    }
}

fn with_condition(
    request: &CertificateSigningRequest,
    condition: Condition,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    let status = changed.status.get_or_insert_default();
    status.conditions.get_or_insert_default().push(condition);
    changed
}

fn approved<'a>(
    parsed: &'a Request,
    usages: &[Usage],
    seconds: Option<i64>,
) -> ApprovedRequest<'a> {
    ApprovedRequest {
        der: parsed.der(),
        subject: ClientSubject {
            common_name: parsed.common_name.clone(),
            organizations: parsed.organizations.clone(),
        },
        dns: &parsed.dns,
        addresses: &parsed.addresses,
        emails: &parsed.emails,
        uris: &parsed.uris,
        usages: usages.iter().map(|usage| granted(*usage)).collect(),
        life: seconds.unwrap_or(LIFE_MAX),
    }
}

fn granted(usage: Usage) -> Granted {
    match usage {
        Usage::ClientAuth => Granted::ClientAuth,
        Usage::DigitalSignature => Granted::DigitalSignature,
        Usage::KeyEncipherment => Granted::KeyEncipherment,
        Usage::ServerAuth => Granted::ServerAuth,
    }
}
