//! `authorizer` in expressions, as a value with functions (k8s.io/apiserver, `pkg/cel/library/authz.go`).

use std::sync::Arc;

use cel_evaluator::{EvaluationError, Extension, Value as Cel};
use object_model::names;

use crate::authorization::{
    AccessCheck, AccessDecision, AccessSubject, AccessTarget, RequestAuthorizer, ResourceAccess,
};

/// The variable of the checks of the requesting user.
pub(crate) const AUTHORIZER: &str = "authorizer";
/// The field of `authorizer` with the check of the requested resource.
const REQUEST_RESOURCE: &str = "requestResource";

type Outcome = Result<Cel, EvaluationError>;

/// The value of `authorizer`.
#[derive(Clone, Debug)]
struct Authorizer {
    request: Arc<RequestAuthorizer>,
    subject: AccessSubject,
    /// The requested resource; `None` for another subject than the requesting user.
    resource: Option<ResourceAccess>,
}

#[derive(Debug)]
struct PathCheck {
    authorizer: Authorizer,
    path: String,
}

#[derive(Debug)]
struct GroupCheck {
    authorizer: Authorizer,
    group: String,
}

#[derive(Clone, Debug)]
struct ResourceCheck {
    authorizer: Authorizer,
    access: ResourceAccess,
}

#[derive(Debug)]
struct Decision(AccessDecision);

/// The value of `authorizer`, with the check of the requested resource.
pub(crate) fn authorizer(request: &Arc<RequestAuthorizer>, resource: ResourceAccess) -> Cel {
    value(Authorizer {
        request: request.clone(),
        subject: AccessSubject::Requester,
        resource: Some(resource),
    })
}

fn value(extension: impl Extension + 'static) -> Cel {
    Cel::Extension(Arc::new(extension))
}

fn failed(text: &str) -> EvaluationError {
    EvaluationError::Function(text.to_owned())
}

impl Authorizer {
    fn decide(&self, target: AccessTarget, verb: &str) -> Cel {
        let check = AccessCheck {
            subject: self.subject.clone(),
            target,
            verb: verb.to_owned(),
        };
        value(Decision(self.request.check(check)))
    }

    fn of_account(&self, namespace: &str, name: &str) -> Outcome {
        if !names::dns_subdomain(name).is_empty() {
            return Err(failed("Invalid service account name"));
        }
        if !names::dns_label(namespace).is_empty() {
            return Err(failed("Invalid service account namespace"));
        }
        Ok(value(Self {
            request: self.request.clone(),
            subject: AccessSubject::ServiceAccount {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            },
            resource: None,
        }))
    }
}

impl Extension for Authorizer {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Authorizer"
    }

    fn has_field(&self, name: &str) -> bool {
        name == REQUEST_RESOURCE && self.resource.is_some()
    }

    fn field(&self, name: &str) -> Result<Option<Cel>, EvaluationError> {
        let access = self.resource.clone().filter(|_| name == REQUEST_RESOURCE);
        let authorizer = self.clone();
        Ok(access.map(|access| value(ResourceCheck { authorizer, access })))
    }

    fn call(&self, function: &str, arguments: &[Cel]) -> Outcome {
        match (function, arguments) {
            ("path", [Cel::String(path)]) => {
                if path.trim().is_empty() {
                    return Err(failed("path must not be empty"));
                }
                Ok(value(PathCheck {
                    authorizer: self.clone(),
                    path: path.to_string(),
                }))
            }
            ("group", [Cel::String(group)]) => Ok(value(GroupCheck {
                authorizer: self.clone(),
                group: group.to_string(),
            })),
            ("serviceAccount", [Cel::String(namespace), Cel::String(name)]) => {
                self.of_account(namespace, name)
            }
            _ => Err(EvaluationError::NoOverload),
        }
    }
}

impl Extension for PathCheck {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.PathCheck"
    }

    fn call(&self, function: &str, arguments: &[Cel]) -> Outcome {
        match (function, arguments) {
            ("check", [Cel::String(verb)]) => {
                let path = AccessTarget::Path(self.path.clone());
                Ok(self.authorizer.decide(path, verb))
            }
            _ => Err(EvaluationError::NoOverload),
        }
    }
}

impl Extension for GroupCheck {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.GroupCheck"
    }

    fn call(&self, function: &str, arguments: &[Cel]) -> Outcome {
        match (function, arguments) {
            ("resource", [Cel::String(resource)]) => {
                if resource.trim().is_empty() {
                    return Err(failed("resource must not be empty"));
                }
                Ok(value(ResourceCheck {
                    authorizer: self.authorizer.clone(),
                    access: ResourceAccess {
                        group: self.group.clone(),
                        resource: resource.to_string(),
                        ..ResourceAccess::default()
                    },
                }))
            }
            _ => Err(EvaluationError::NoOverload),
        }
    }
}

impl Extension for ResourceCheck {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.ResourceCheck"
    }

    fn call(&self, function: &str, arguments: &[Cel]) -> Outcome {
        let [Cel::String(text)] = arguments else {
            return Err(EvaluationError::NoOverload);
        };
        if function == "check" {
            let resource = AccessTarget::Resource(self.access.clone());
            return Ok(self.authorizer.decide(resource, text));
        }
        let mut check = self.clone();
        let field = match function {
            "subresource" => &mut check.access.subresource,
            "namespace" => &mut check.access.namespace,
            "name" => &mut check.access.name,
            "fieldSelector" => &mut check.access.field_selector,
            "labelSelector" => &mut check.access.label_selector,
            _ => return Err(EvaluationError::NoOverload),
        };
        *field = text.to_string();
        Ok(value(check))
    }
}

impl Extension for Decision {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }

    fn call(&self, function: &str, arguments: &[Cel]) -> Outcome {
        if !arguments.is_empty() {
            return Err(EvaluationError::NoOverload);
        }
        Ok(match function {
            "allowed" => Cel::Bool(self.0.is_allowed),
            "reason" => Cel::text(&self.0.reason),
            "errored" => Cel::Bool(self.0.error.is_some()),
            "error" => Cel::text(self.0.error.as_deref().unwrap_or_default()),
            _ => return Err(EvaluationError::NoOverload),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EvaluationResult, Expression, ExpressionError, Values};

    /// An authoriser of a user that may read pods in the namespace `d`, and of an account that may read `/healthz`.
    fn request() -> Arc<RequestAuthorizer> {
        Arc::new(RequestAuthorizer::new(|check| match &check.target {
            AccessTarget::Path(path) => AccessDecision {
                is_allowed: path == "/healthz"
                    && check.verb == "get"
                    && check.subject
                        == AccessSubject::ServiceAccount {
                            namespace: "d".to_owned(),
                            name: "probe".to_owned(),
                        },
                ..AccessDecision::default()
            },
            AccessTarget::Resource(access) if access.resource == "broken" => AccessDecision {
                error: Some("not decided".to_owned()),
                ..AccessDecision::default()
            },
            AccessTarget::Resource(access) => AccessDecision {
                is_allowed: access.resource == "pods" && access.namespace == "d",
                reason: format!("{} {}", check.verb, access.name),
                error: None,
            },
        }))
    }

    fn evaluate(source: &str) -> Result<EvaluationResult, ExpressionError> {
        let mut values = Values::default();
        let access = ResourceAccess {
            resource: "pods".to_owned(),
            namespace: "d".to_owned(),
            name: "web".to_owned(),
            ..ResourceAccess::default()
        };
        values.add_authorizer(&request(), access);
        Expression::compile_with(source, &["authorizer"])?.evaluate(&values)
    }

    #[test]
    fn rights_are_checked_in_expressions() {
        for (source, expected) in [
            (
                "authorizer.group('').resource('pods').namespace('d').check('get').allowed()",
                true,
            ),
            (
                "authorizer.group('').resource('pods').check('get').allowed()",
                false,
            ),
            ("authorizer.requestResource.check('update').allowed()", true),
            (
                "authorizer.requestResource.check('update').reason() == 'update web'",
                true,
            ),
            (
                "authorizer.requestResource.name('db').check('get').reason() == 'get db'",
                true,
            ),
            (
                "authorizer.requestResource.subresource('status').check('get').allowed()",
                true,
            ),
            (
                "authorizer.group('').resource('pods').fieldSelector('a=b').labelSelector('c').check('list').errored()",
                false,
            ),
            ("authorizer.path('/healthz').check('get').allowed()", false),
            (
                "authorizer.serviceAccount('d', 'probe').path('/healthz').check('get').allowed()",
                true,
            ),
            (
                "authorizer.group('').resource('broken').check('get').errored()",
                true,
            ),
            (
                "authorizer.group('').resource('broken').check('get').error() == 'not decided'",
                true,
            ),
            (
                "authorizer.requestResource.check('get').error() == ''",
                true,
            ),
        ] {
            let result = evaluate(source).unwrap_or_else(|error| panic!("{source}: {error}"));
            assert_eq!(result.as_bool(), Some(expected), "{source}");
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        for (source, expected) in [
            (
                "authorizer.path(' ').check('get').allowed()",
                "path must not be empty",
            ),
            (
                "authorizer.group('').resource('').check('get').allowed()",
                "resource must not be empty",
            ),
            (
                "authorizer.serviceAccount('d', 'A_').path('/').check('get').allowed()",
                "Invalid service account name",
            ),
            (
                "authorizer.serviceAccount('d.e', 'a').path('/').check('get').allowed()",
                "Invalid service account namespace",
            ),
            ("authorizer.check('get').allowed()", "no such overload"),
        ] {
            let error = evaluate(source).unwrap_err().to_string();
            assert!(error.contains(expected), "{source}: {error}");
        }
    }

    #[test]
    fn two_checks_fit_into_the_budget_of_an_expression() {
        let check = "authorizer.requestResource.check('get').allowed()";
        let checks = |count: usize| evaluate(&vec![check; count].join(" && "));
        assert_eq!(checks(2).map(|result| result.as_bool()), Ok(Some(true)));
        assert_eq!(checks(3).unwrap_err(), ExpressionError::OutOfBudget);
    }
}
