//! ValidatingAdmissionPolicies: for which requests they hold, and what they say.

use custom_resources::{Expression, Values};
use object_model::{Cause, Status, StatusReason};
use resource_kinds::Lookup;
use serde_json::Value;

use crate::expressions::{Condition, Met, VARIABLES, compile, conditions, met, names};
use crate::matching::{Target, rule_matches, selected};
use crate::request::Request;

/// Group and plural of a kind that is served, by its version (`apps/v1`) and name.
pub type PluralOf<'a> = dyn Fn(&str, &str) -> Option<(String, String)> + 'a;

/// All policies and where they hold.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    bound: Vec<Bound>,
}

/// A policy, and one place where it holds.
#[derive(Clone, Debug)]
struct Bound {
    policy: String,
    binding: String,
    /// Both specs.
    spec: Value,
    bound: Value,
    rules: Result<Rules, String>,
}

/// The expressions of a policy.
#[derive(Clone, Debug)]
struct Rules {
    conditions: Vec<Condition>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
}

#[derive(Clone, Debug)]
struct Validation {
    expression: Expression,
    message: String,
    made: Option<Expression>,
    reason: StatusReason,
}

/// What the policies say of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The refusal, if there is one.
    pub denied: Option<Status>,
    /// What the client is told.
    pub warnings: Vec<String>,
    /// What the audit log is told.
    pub audited: Vec<String>,
}

/// Something that a policy does not allow, or could not judge.
struct Complaint {
    message: String,
    /// The reason of the refusal; `None` of what is no answer of the policy's.
    reason: Option<StatusReason>,
}

impl Policies {
    /// The policies that are bound somewhere.
    pub fn new(policies: &[Value], bindings: &[Value]) -> Self {
        let name = |object: &Value| {
            let name = object["metadata"]["name"].as_str();
            name.unwrap_or_default().to_owned()
        };
        let mut bound = Vec::new();
        for binding in bindings {
            let wanted = &binding["spec"]["policyName"];
            let found = policies
                .iter()
                .find(|one| one["metadata"]["name"] == *wanted);
            let Some(policy) = found else { continue };
            bound.push(Bound {
                policy: name(policy),
                binding: name(binding),
                spec: policy["spec"].clone(),
                bound: binding["spec"].clone(),
                rules: Rules::read(&policy["spec"]),
            });
        }
        Self { bound }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bound.is_empty()
    }

    /// What the policies say of a request, told as any of the targets: the first is its own, the
    /// others are the same objects in other versions.
    pub fn judge(
        &self,
        request: &Request<'_>,
        targets: &[Target<'_>],
        cluster: &dyn Lookup,
        plural_of: &PluralOf<'_>,
    ) -> Judgement {
        let mut judgement = Judgement::default();
        for bound in &self.bound {
            let complaints = bound.complaints(request, targets, cluster, plural_of);
            for complaint in complaints {
                bound.act(request, &complaint, &mut judgement);
            }
        }
        judgement
    }
}

impl Rules {
    fn read(spec: &Value) -> Result<Self, String> {
        let params = spec["paramKind"].is_object();
        let all = names(params, true);
        let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let variables = list("variables");
        let variables = variables
            .iter()
            .map(|one| Ok((text(&one["name"]), compile(&one["expression"], &all)?)));
        let validations = list("validations");
        let validations = validations.iter().map(|one| {
            let message = text(&one["message"]).trim().to_owned();
            let made = &one["messageExpression"];
            Ok(Validation {
                expression: compile(&one["expression"], &all)?,
                message: if message.is_empty() {
                    format!("failed expression: {}", text(&one["expression"]).trim())
                } else {
                    message
                },
                made: made.is_string().then(|| compile(made, &all)).transpose()?,
                reason: reason(&one["reason"]),
            })
        });
        Ok(Self {
            conditions: conditions(&spec["matchConditions"], params)?,
            variables: variables.collect::<Result<_, String>>()?,
            validations: validations.collect::<Result<_, String>>()?,
        })
    }

    /// All that is wrong, with one object of settings or none.
    fn broken(&self, mut values: Values) -> Vec<Complaint> {
        for (name, expression) in &self.variables {
            // One that cannot be worked out is missing: a rule that mentions it fails.
            if let Ok(said) = expression.say(&values) {
                values.add_entry(VARIABLES, name, &said);
            }
        }
        let validations = self.validations.iter();
        validations
            .filter_map(|validation| validation.judge(&values))
            .collect()
    }
}

impl Validation {
    fn judge(&self, values: &Values) -> Option<Complaint> {
        match self.expression.say(values).map(|said| said.as_bool()) {
            Ok(Some(true)) => None,
            Ok(Some(false)) => Some(self.complaint(values)),
            Ok(None) => Some(Complaint::failure(
                "cel expression resulted in other than a bool".to_owned(),
            )),
            Err(error) => Some(Complaint::failure(format!(
                "expression resulted in error: {error}"
            ))),
        }
    }

    fn complaint(&self, values: &Values) -> Complaint {
        let made = self.made.as_ref().and_then(|made| made.say(values).ok());
        let made = made.as_ref().and_then(|said| said.as_text()).map(str::trim);
        let made = made.filter(|text| !text.is_empty() && !text.contains('\n'));
        Complaint {
            message: made.unwrap_or(&self.message).to_owned(),
            reason: Some(self.reason),
        }
    }
}

impl Complaint {
    /// Something that went wrong while judging.
    fn failure(message: String) -> Self {
        Self {
            message,
            reason: None,
        }
    }
}

impl Bound {
    fn complaints(
        &self,
        request: &Request<'_>,
        targets: &[Target<'_>],
        cluster: &dyn Lookup,
        plural_of: &PluralOf<'_>,
    ) -> Vec<Complaint> {
        let found = self.judged(request, targets, cluster, plural_of);
        let mut complaints = found.unwrap_or_else(|why| vec![Complaint::failure(why)]);
        // Those that are no answers count only where the policy must answer.
        if self.spec["failurePolicy"] == "Ignore" {
            complaints.retain(|complaint| complaint.reason.is_some());
        }
        complaints
    }

    fn judged(
        &self,
        request: &Request<'_>,
        targets: &[Target<'_>],
        cluster: &dyn Lookup,
        plural_of: &PluralOf<'_>,
    ) -> Result<Vec<Complaint>, String> {
        let about = holds(&self.spec["matchConstraints"], request, targets, false)?
            && holds(&self.bound["matchResources"], request, targets, true)?;
        if !about {
            return Ok(Vec::new());
        }
        let rules = self.rules.as_ref().map_err(Clone::clone)?;
        let mut complaints = Vec::new();
        let of_request = request.values();
        for settings in self.settings(request, cluster, plural_of)? {
            let mut values = of_request.clone();
            values.add("params", &settings);
            match met(&rules.conditions, &values) {
                Met::Yes => {}
                Met::No => continue,
                Met::Unknown(why) => return Err(why),
            }
            complaints.extend(rules.broken(values));
        }
        Ok(complaints)
    }

    /// The objects with settings: one null where the policy has none.
    fn settings(
        &self,
        request: &Request<'_>,
        cluster: &dyn Lookup,
        plural_of: &PluralOf<'_>,
    ) -> Result<Vec<Value>, String> {
        let (kind, reference) = (&self.spec["paramKind"], &self.bound["paramRef"]);
        if !kind.is_object() || !reference.is_object() {
            return Ok(vec![Value::Null]);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, name) = (text(&kind["apiVersion"]), text(&kind["kind"]));
        let Some((group, plural)) = plural_of(&version, &name) else {
            return Err(format!("paramKind {version}, Kind={name} is not served"));
        };
        let namespace = match text(&reference["namespace"]) {
            none if none.is_empty() => request.namespace.to_owned(),
            namespace => namespace,
        };
        let found: Vec<Value> = match text(&reference["name"]) {
            name if !name.is_empty() => cluster
                .get(&group, &plural, &namespace, &name)
                .into_iter()
                .collect(),
            _ => {
                let selector = object_model::LabelSelector::from_json(&reference["selector"]);
                let selector = selector.map_err(|error| error.to_string())?;
                let mut all = cluster.list(&group, &plural, &namespace);
                all.retain(|object| selector.matches_object(object));
                all
            }
        };
        if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
            return Err(
                "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned(),
            );
        }
        Ok(found)
    }

    /// Does about a complaint what the binding says.
    fn act(&self, request: &Request<'_>, complaint: &Complaint, judgement: &mut Judgement) {
        let (policy, binding) = (&self.policy, &self.binding);
        let message = &complaint.message;
        let actions = crate::matching::texts(&self.bound["validationActions"]);
        for action in actions {
            match action {
                "Warn" => judgement.warnings.push(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding \
                     '{binding}': {message}"
                )),
                "Audit" => judgement
                    .audited
                    .push(format!("{policy}/{binding}: {message}")),
                _ if judgement.denied.is_none() => {
                    let text = format!(
                        "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied \
                         request: {message}"
                    );
                    let reason = complaint.reason.unwrap_or(StatusReason::Invalid);
                    judgement.denied = Some(denied(request, text, reason));
                }
                _ => {}
            }
        }
    }
}

/// Whether a request is among those that a match means; an empty list of rules means all of them
/// where that is allowed.
fn holds(
    part: &Value,
    request: &Request<'_>,
    targets: &[Target<'_>],
    all: bool,
) -> Result<bool, String> {
    if !part.is_object() {
        return Ok(all);
    }
    let targets = if part["matchPolicy"] == "Exact" {
        targets.get(..1).unwrap_or_default()
    } else {
        targets
    };
    let any = |list: &Value| {
        let rules = list.as_array().map_or(&[][..], Vec::as_slice);
        let mut rules = rules.iter();
        rules.any(|rule| {
            targets
                .iter()
                .any(|target| rule_matches(rule, target, request))
        })
    };
    let rules = &part["resourceRules"];
    let unbounded = all && rules.as_array().is_none_or(Vec::is_empty);
    if any(&part["excludeResourceRules"]) || !(unbounded || any(rules)) {
        return Ok(false);
    }
    selected(part, request)
}

/// The reason of a refusal, as a rule names it.
fn reason(word: &Value) -> StatusReason {
    match word.as_str() {
        Some("Unauthorized") => StatusReason::Unauthorized,
        Some("Forbidden") => StatusReason::Forbidden,
        Some("RequestEntityTooLarge") => StatusReason::RequestEntityTooLarge,
        _ => StatusReason::Invalid,
    }
}

/// The refusal.
fn denied(request: &Request<'_>, text: String, reason: StatusReason) -> Status {
    let target = &request.target;
    let mut status = Status::forbidden(target.group, target.plural, request.name, &text);
    status.reason = reason;
    status.code = reason.code();
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: String::new(),
            message: text,
            field: String::new(),
        });
    }
    status
}
