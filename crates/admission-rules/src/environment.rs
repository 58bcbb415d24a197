//! The variables of expressions in webhooks and policies, and their types (k8s.io/apiserver, `admission/plugin/cel`).

use std::fmt;

use cel_checker::{Declarations, Type};
use custom_resources::{ExpressionError, constructed_type, result_type};

/// The variables of all conditions and rules at an evaluation.
const ABOUT: [&str; 5] = [
    "object",
    "oldObject",
    "request",
    "namespaceObject",
    "authorizer",
];
/// The variable of policies with parameters.
const PARAMS: &str = "params";
/// The variable that contains the policy's computed variables.
pub(crate) const VARIABLES: &str = "variables";

/// The names of the variables at an evaluation.
pub(crate) fn names(params: bool, variables: bool) -> Vec<&'static str> {
    let mut names = ABOUT.to_vec();
    names.extend(params.then_some(PARAMS));
    names.extend(variables.then_some(VARIABLES));
    names
}

/// The types that an expression may result in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Any,
    Bool,
    Text,
    TextOrNull,
    /// An object that the expression constructs.
    Object,
    /// A list of operations of a JSON patch.
    Patch,
}

impl Expected {
    fn constructs(self) -> bool {
        matches!(self, Self::Object | Self::Patch)
    }

    /// The allowed types; empty if each type is allowed.
    fn types(self) -> Vec<Type> {
        match self {
            Self::Any => Vec::new(),
            Self::Bool => vec![Type::Bool],
            Self::Text => vec![Type::String],
            Self::TextOrNull => vec![Type::String, Type::Null],
            Self::Object => vec![Type::sealed("Object")],
            Self::Patch => vec![Type::list(Type::sealed("JSONPatch"))],
        }
    }
}

/// The types of the variables of one policy or webhook.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    declarations: Declarations,
    /// The variables of the policy that are declared so far; `None` if the policy has no variables.
    variables: Option<Vec<(String, Type)>>,
}

impl Environment {
    /// The environment for an object of this type; `params` is absent for a policy without parameters.
    pub fn new(object: &Type, params: Option<Type>) -> Self {
        let mut declarations = Declarations::kubernetes()
            .with_variable("object", object.clone())
            .with_variable("oldObject", object.clone())
            .with_variable("request", request_type())
            .with_variable("namespaceObject", namespace_type());
        if let Some(params) = params {
            declarations = declarations.with_variable(PARAMS, params);
        }
        Self {
            declarations,
            variables: None,
        }
    }

    /// The environment when a policy or webhook is written: the object may be of any kind.
    pub fn of_any_object(has_params: bool) -> Self {
        Self::new(&Type::Dyn, has_params.then_some(Type::Dyn))
    }

    /// Declares that the policy has variables, which the next calls of [`add_variable`](Self::add_variable) add.
    pub fn with_variables(mut self) -> Self {
        self.variables.get_or_insert_default();
        self
    }

    /// Checks the expression of a variable, and declares the variable for the later expressions. A variable with an
    /// error has any type.
    pub fn add_variable(&mut self, name: &str, source: &str) -> Result<(), CheckFailure> {
        let result = self.result(source, Expected::Any, true);
        let of = result.as_ref().map_or(Type::Dyn, visible);
        let variables = self.variables.get_or_insert_default();
        variables.push((name.to_owned(), of));
        result.map(drop)
    }

    /// Checks an expression; `has_authorizer` is false for messages.
    pub fn check(
        &self,
        source: &str,
        expected: Expected,
        has_authorizer: bool,
    ) -> Result<(), CheckFailure> {
        let actual = self.result(source, expected, has_authorizer)?;
        let allowed = expected.types();
        if allowed.is_empty() || allowed.contains(&actual) {
            return Ok(());
        }
        let allowed = allowed.iter().map(runtime_name).collect();
        Err(CheckFailure::Result {
            allowed,
            actual: runtime_name(&actual),
        })
    }

    fn result(
        &self,
        source: &str,
        expected: Expected,
        has_authorizer: bool,
    ) -> Result<Type, CheckFailure> {
        let mut declarations = self.declarations.clone();
        if has_authorizer {
            declarations = declarations
                .with_variable("authorizer", authorization_type("Authorizer"))
                .with_variable(
                    "authorizer.requestResource",
                    authorization_type("ResourceCheck"),
                );
        }
        if let Some(variables) = &self.variables {
            let variables = Type::object("kubernetes.variables", variables.iter().cloned());
            declarations = declarations.with_variable(VARIABLES, variables);
        }
        let result = match expected.constructs() {
            true => constructed_type(source, &declarations),
            false => result_type(source, &declarations),
        };
        result.map_err(CheckFailure::Compilation)
    }
}

/// The reason why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckFailure {
    Compilation(ExpressionError),
    /// The result has another type.
    Result {
        allowed: Vec<String>,
        actual: String,
    },
}

impl fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compilation(error) => write!(f, "compilation failed: {error}"),
            Self::Result { allowed, actual } => match allowed.as_slice() {
                [one] => write!(f, "must evaluate to {one} but got {actual}"),
                many => {
                    let many = many.join(" ");
                    write!(f, "must evaluate to one of [{many}] but got {actual}")
                }
            },
        }
    }
}

/// The type of a variable for later expressions. As upstream, objects and opaque values have any type there.
fn visible(of: &Type) -> Type {
    match of {
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => of.clone(),
        Type::List(element) => Type::list(visible(element)),
        Type::Map(key, value) => Type::map(visible(key), visible(value)),
        _ => Type::Dyn,
    }
}

/// The name of a type in a message about the result.
fn runtime_name(of: &Type) -> String {
    match of {
        Type::Null => "null_type".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::List(element) => format!("list({})", runtime_name(element)),
        Type::Map(key, value) => format!("map({}, {})", runtime_name(key), runtime_name(value)),
        other => other.to_string(),
    }
}

fn authorization_type(name: &str) -> Type {
    Type::sealed(&format!("kubernetes.authorization.{name}"))
}

/// An object type of the namespace `kubernetes`.
fn object(name: &str, fields: &[(&str, Type)]) -> Type {
    let fields = fields
        .iter()
        .map(|(name, of)| ((*name).to_owned(), of.clone()));
    Type::object(&format!("kubernetes.{name}"), fields)
}

/// An object type whose fields are all texts.
fn texts(name: &str, fields: &[&str]) -> Type {
    let fields: Vec<_> = fields.iter().map(|field| (*field, Type::String)).collect();
    object(name, &fields)
}

/// The type of `request`: an AdmissionRequest without `uid`, `object` and `oldObject`.
fn request_type() -> Type {
    let kind = texts("GroupVersionKind", &["group", "version", "kind"]);
    let resource = texts("GroupVersionResource", &["group", "version", "resource"]);
    let list = Type::list(Type::String);
    let user = object(
        "UserInfo",
        &[
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", list.clone()),
            ("extra", Type::map(Type::String, list)),
        ],
    );
    object(
        "AdmissionRequest",
        &[
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

/// The type of `namespaceObject`. As upstream, it has only some fields of a Namespace.
fn namespace_type() -> Type {
    let list = Type::list(Type::String);
    let map = Type::map(Type::String, Type::String);
    let metadata = object(
        "NamespaceMetadata",
        &[
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", map.clone()),
            ("annotations", map),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", list.clone()),
        ],
    );
    let condition = object(
        "NamespaceCondition",
        &[
            ("status", Type::String),
            ("type", Type::String),
            ("lastTransitionTime", Type::Timestamp),
            ("message", Type::String),
            ("reason", Type::String),
        ],
    );
    let status = object(
        "NamespaceStatus",
        &[
            ("conditions", Type::list(condition)),
            ("phase", Type::String),
        ],
    );
    object(
        "Namespace",
        &[
            ("metadata", metadata),
            ("spec", object("NamespaceSpec", &[("finalizers", list)])),
            ("status", status),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(source: &str, expected: Expected) -> Result<(), String> {
        let mut environment = Environment::of_any_object(true).with_variables();
        environment
            .add_variable("many", "object.spec.replicas > 3")
            .unwrap();
        environment.add_variable("name", "request.name").unwrap();
        let checked = environment.check(source, expected, true);
        checked.map_err(|failure| failure.to_string())
    }

    #[test]
    fn variables_have_the_types_of_their_expressions() {
        for (source, expected) in [
            ("variables.many && object.a == params.b", Expected::Bool),
            ("variables.name + 'x'", Expected::Text),
            ("has(object.a) ? 'x' : dyn(null)", Expected::Any),
            ("null", Expected::TextOrNull),
            (
                "request.userInfo.groups.exists(g, g == 'a')",
                Expected::Bool,
            ),
            ("request.userInfo.extra['a'][0] == 'b'", Expected::Bool),
            (
                "namespaceObject.metadata.labels['env'] == 'prod'",
                Expected::Bool,
            ),
            (
                "authorizer.group('').resource('pods').check('get').allowed()",
                Expected::Bool,
            ),
            (
                "authorizer.requestResource.check('get').allowed()",
                Expected::Bool,
            ),
            (
                "Object{spec: Object.spec{a: variables.name}}",
                Expected::Object,
            ),
            ("[JSONPatch{op: 'remove', path: '/a'}]", Expected::Patch),
        ] {
            assert_eq!(checked(source, expected), Ok(()), "{source}");
        }
        for (source, expected, error) in [
            (
                "object.a",
                Expected::Bool,
                "must evaluate to bool but got dyn",
            ),
            (
                "[1]",
                Expected::Text,
                "must evaluate to string but got list(int)",
            ),
            (
                "duration('1s')",
                Expected::TextOrNull,
                "must evaluate to one of [string null_type] but got google.protobuf.Duration",
            ),
            (
                "{'a': 1}",
                Expected::Object,
                "must evaluate to Object but got map(string, int)",
            ),
            (
                "[]",
                Expected::Patch,
                "must evaluate to list(JSONPatch) but got list(dyn)",
            ),
            (
                "variables.many + 1",
                Expected::Any,
                "found no matching overload for '_+_'",
            ),
            ("variables.other", Expected::Any, "undefined field 'other'"),
            ("request.uid == ''", Expected::Bool, "undefined field 'uid'"),
            (
                "authorizer.allowed()",
                Expected::Bool,
                "no matching overload for 'allowed'",
            ),
        ] {
            let actual = checked(source, expected).unwrap_err();
            assert!(actual.contains(error), "{source}: {actual}");
        }
    }

    #[test]
    fn variables_and_authorizer_are_declared_where_upstream_declares_them() {
        let environment = Environment::of_any_object(false);
        for source in ["variables.a", "params.a"] {
            let error = environment.check(source, Expected::Any, true);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("undeclared reference to"), "{error}");
        }
        let message = "string(authorizer.path('/').check('get').allowed())";
        assert_eq!(environment.check(message, Expected::Text, true), Ok(()));
        let error = environment.check(message, Expected::Text, false);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("undeclared reference to 'authorizer'"),
            "{error}"
        );
    }
}
