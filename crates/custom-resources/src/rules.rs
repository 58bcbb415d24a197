//! Rules in the Common Expression Language (`x-kubernetes-validations`): compiled once, judged at
//! each place of an object that has them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value as Cel};
use object_model::{FieldError, FieldErrorType, FieldPath};
use serde_json::Value;

use crate::cel_bounds;
use crate::cel_library::{add_functions, environment};
use crate::cel_values::{size, typed};
use crate::schema::{ListType, Schema, Validation};

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(environment()));

/// What one object may cost to judge: values looked at, where loops within loops multiply.
const BUDGET: u64 = 10_000_000;

/// An expression, ready to be evaluated.
#[derive(Clone)]
pub struct Expression {
    program: Arc<Program>,
    /// Whether it looks at the former value.
    pub(crate) compares: bool,
    /// How deep its loops are nested.
    depth: u32,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expression").finish_non_exhaustive()
    }
}

/// Programs are compared by their sources, which stand beside them.
impl PartialEq for Expression {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Expression {}

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// A text that says where it cannot be read.
    pub fn compile(source: &str) -> Result<Self, String> {
        Self::compile_about(source, &["self", "oldSelf"])
    }

    /// Compiles an expression that is about the named values.
    ///
    /// # Errors
    /// A text that says where it cannot be read.
    pub fn compile_about(source: &str, names: &[&str]) -> Result<Self, String> {
        cel_bounds::check(source)?;
        let program = ENVIRONMENT
            .compile(source)
            .map_err(|error| error.to_string())?;
        let references = program.references();
        let mut shape = Shape::default();
        shape.visit(program.expression());
        let known = |name: &str| {
            LIBRARIES.contains(&name)
                || names.contains(&name)
                || shape.bound.iter().any(|bound| bound == name)
        };
        let mut strangers = references.variables().into_iter();
        if let Some(stranger) = strangers.find(|name| !known(name)) {
            return Err(format!("undeclared reference to '{stranger}'"));
        }
        Ok(Self {
            compares: references.has_variable("oldSelf"),
            depth: shape.deepest,
            program: Arc::new(program),
        })
    }

    fn evaluate(&self, value: &Cel, old: Option<&Cel>) -> Result<Cel, String> {
        let mut context = Context::with_env(ENVIRONMENT.clone());
        add_functions(&mut context);
        context.add_variable_from_value("self", value.clone());
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", old.clone());
        }
        self.program
            .execute(&context)
            .map_err(|error| error.to_string())
    }

    /// What the expression says of some values.
    ///
    /// # Errors
    /// A text: a function that failed, a field that is not there, or more work than one expression
    /// may make.
    pub fn say(&self, values: &Values) -> Result<Said, String> {
        if values.nodes.saturating_pow(self.depth.max(1)) > BUDGET {
            return Err("running out of cost budget".to_owned());
        }
        let mut context = Context::with_env(ENVIRONMENT.clone());
        add_functions(&mut context);
        for (name, value) in &values.all {
            context.add_variable_from_value(name.as_str(), value.clone());
        }
        let said = self.program.execute(&context);
        said.map(Said).map_err(|error| error.to_string())
    }
}

/// The values that an expression is about, by name.
#[derive(Clone, Debug, Default)]
pub struct Values {
    all: BTreeMap<String, Cel>,
    nodes: u64,
}

impl Values {
    /// Adds a value; what is null is known by its name all the same.
    pub fn add(&mut self, name: &str, value: &Value) {
        self.nodes += size(value) as u64;
        self.all.insert(name.to_owned(), typed(value, None));
    }

    /// Adds what an expression said, as an entry of the map of that name.
    pub fn add_entry(&mut self, name: &str, key: &str, said: &Said) {
        let mut entries = match self.all.remove(name) {
            Some(Cel::Map(map)) => Arc::unwrap_or_clone(map.map),
            _ => Default::default(),
        };
        entries.insert(Key::String(Arc::new(key.to_owned())), said.0.clone());
        let map = Map {
            map: Arc::new(entries),
        };
        self.all.insert(name.to_owned(), Cel::Map(map));
    }
}

/// What an expression says.
#[derive(Clone, Debug)]
pub struct Said(Cel);

impl Said {
    /// Yes or no, if it is either.
    pub fn as_bool(&self) -> Option<bool> {
        match self.0 {
            Cel::Bool(said) => Some(said),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.0 {
            Cel::String(text) => Some(text),
            _ => None,
        }
    }
}

/// What all expressions may mention: types, and libraries with a name.
const LIBRARIES: [&str; 18] = [
    "base64",
    "bool",
    "bytes",
    "cel",
    "double",
    "duration",
    "dyn",
    "google",
    "int",
    "list",
    "lists",
    "map",
    "math",
    "null_type",
    "optional",
    "string",
    "strings",
    "uint",
];

/// What an expression is made of.
#[derive(Default)]
struct Shape {
    depth: u32,
    /// How deep loops are nested.
    deepest: u32,
    /// Names that its loops give to elements.
    bound: Vec<String>,
}

impl Shape {
    fn visit(&mut self, expression: &IdedExpr) {
        match &expression.expr {
            Expr::Comprehension(all) => {
                self.visit(&all.iter_range);
                self.bound.push(all.iter_var.clone());
                self.bound.extend(all.iter_var2.clone());
                self.bound.push(all.accu_var.clone());
                self.depth += 1;
                self.deepest = self.deepest.max(self.depth);
                for part in [&all.accu_init, &all.loop_cond, &all.loop_step, &all.result] {
                    self.visit(part);
                }
                self.depth -= 1;
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.visit(target);
                }
                call.args.iter().for_each(|part| self.visit(part));
            }
            Expr::List(list) => list.elements.iter().for_each(|part| self.visit(part)),
            Expr::Map(map) => map.entries.iter().for_each(|entry| self.visit_entry(entry)),
            Expr::Struct(all) => all.entries.iter().for_each(|entry| self.visit_entry(entry)),
            Expr::Select(select) => self.visit(&select.operand),
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        }
    }

    fn visit_entry(&mut self, entry: &IdedEntryExpr) {
        match &entry.expr {
            EntryExpr::StructField(field) => self.visit(&field.value),
            EntryExpr::MapEntry(entry) => {
                self.visit(&entry.key);
                self.visit(&entry.value);
            }
        }
    }
}

/// All rules that an object breaks; `old` is the object before an update.
pub fn broken_rules(object: &Value, old: Option<&Value>, schema: &Schema) -> Vec<FieldError> {
    let mut judge = Judge::with(BUDGET);
    judge.walk(object, old, schema, &FieldPath::default());
    judge.errors
}

/// A place that has rules: its value, and the same as expressions see it, now and before.
struct Place<'v> {
    value: &'v Value,
    path: &'v FieldPath,
    nodes: u64,
    now: Cel,
    before: Option<Cel>,
}

struct Judge {
    /// What may still be spent; `None` when a rule asked for more.
    left: Option<u64>,
    errors: Vec<FieldError>,
}

impl Judge {
    fn with(budget: u64) -> Self {
        Self {
            left: Some(budget),
            errors: Vec::new(),
        }
    }

    fn walk(&mut self, value: &Value, old: Option<&Value>, schema: &Schema, path: &FieldPath) {
        if !schema.has_rules || (value.is_null() && schema.nullable) {
            return;
        }
        if !schema.validations.is_empty() {
            let place = Place {
                value,
                path,
                nodes: size(value) as u64,
                now: typed(value, Some(schema)),
                before: old.map(|old| typed(old, Some(schema))),
            };
            for validation in &schema.validations {
                self.judge(&place, validation);
            }
        }
        match value {
            Value::Object(map) => {
                for (name, value) in map {
                    if let Some(below) = schema.field(name) {
                        let old = old.and_then(|old| old.get(name));
                        self.walk(value, old, below, &path.child(name));
                    }
                }
            }
            Value::Array(items) => {
                let Some(below) = &schema.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| counterpart(item, old, &schema.list_type));
                    self.walk(item, old, below, &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn judge(&mut self, place: &Place<'_>, validation: &Validation) {
        let Some(rule) = &validation.compiled else {
            let text = format!("rule cannot be compiled: {}", validation.rule.trim());
            self.refuse(place.path, place.value, None, text);
            return;
        };
        if rule.compares && place.before.is_none() {
            // A rule about a change says nothing about what is new.
            return;
        }
        let cost = place.nodes.saturating_pow(rule.depth.max(1));
        let Some(left) = self.left else {
            return;
        };
        self.left = left.checked_sub(cost);
        if self.left.is_none() {
            let text = "validation failed due to running out of cost budget, no further \
                        validation rules will be run";
            self.refuse(place.path, place.value, None, text.to_owned());
            return;
        }
        match rule.evaluate(&place.now, place.before.as_ref()) {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => {
                let text = message(validation, &place.now, place.before.as_ref());
                let field = match &validation.field_path {
                    Some(below) => below
                        .trim_start_matches('.')
                        .split('.')
                        .fold(place.path.clone(), |path, name| path.child(name)),
                    None => place.path.clone(),
                };
                self.refuse(&field, place.value, validation.reason.as_deref(), text);
            }
            Ok(_) => {
                let text = format!("rule {:?} does not give true or false", validation.rule);
                self.refuse(place.path, place.value, None, text);
            }
            Err(error) => {
                let text = format!("{error} evaluating rule: {}", title(validation));
                self.refuse(place.path, place.value, None, text);
            }
        }
    }

    fn refuse(&mut self, path: &FieldPath, value: &Value, reason: Option<&str>, text: String) {
        let shown = match value {
            Value::Object(_) | Value::Array(_) => None,
            scalar => Some(scalar.clone()),
        };
        let kind = match reason {
            Some("FieldValueForbidden") => FieldErrorType::Forbidden,
            Some("FieldValueRequired") => FieldErrorType::Required,
            Some("FieldValueDuplicate") => FieldErrorType::Duplicate,
            _ => FieldErrorType::Invalid,
        };
        let tells_value = matches!(kind, FieldErrorType::Invalid | FieldErrorType::Duplicate);
        self.errors.push(FieldError {
            kind,
            field: path.clone(),
            value: shown.filter(|_| tells_value),
            detail: text,
        });
    }
}

/// The former of a list's element, found by its key.
fn counterpart<'o>(item: &Value, old: &'o Value, list_type: &ListType) -> Option<&'o Value> {
    let ListType::Map(keys) = list_type else {
        return None;
    };
    let same = |other: &&Value| keys.iter().all(|key| item.get(key) == other.get(key));
    old.as_array()?.iter().find(same)
}

fn title(validation: &Validation) -> String {
    let named = validation.message.clone();
    named.unwrap_or_else(|| validation.rule.trim().to_owned())
}

/// What is said of a broken rule.
fn message(validation: &Validation, now: &Cel, before: Option<&Cel>) -> String {
    let made = validation
        .compiled_message
        .as_ref()
        .and_then(|expression| expression.evaluate(now, before).ok());
    if let Some(Cel::String(text)) = made
        && !text.trim().is_empty()
        && !text.contains('\n')
    {
        return text.trim().to_owned();
    }
    let plain = validation.message.clone();
    plain.unwrap_or_else(|| format!("failed rule: {}", validation.rule.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(schema: Value, object: Value, old: Option<Value>) -> Vec<String> {
        let errors = broken_rules(&object, old.as_ref(), &Schema::parse(&schema));
        errors.iter().map(ToString::to_string).collect()
    }

    fn spec(rules: Value, fields: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object",
            "x-kubernetes-validations": rules, "properties": fields}}})
    }

    #[test]
    fn a_rule_is_judged_where_it_stands() {
        let schema = spec(
            json!([
                {"rule": "self.min <= self.max", "message": "min is more than max"},
                {"rule": "self.min >= 0"},
                {"rule": "self.max < 10", "messageExpression": "'max is ' + string(self.max)",
                 "reason": "FieldValueForbidden", "fieldPath": ".max"},
            ]),
            json!({"min": {"type": "integer"}, "max": {"type": "integer"}}),
        );
        assert_eq!(
            texts(schema.clone(), json!({"spec": {"min": 1, "max": 2}}), None),
            [""; 0]
        );
        assert_eq!(
            texts(schema, json!({"spec": {"min": -1, "max": -2}}), None),
            [
                "spec: Invalid value: min is more than max",
                "spec: Invalid value: failed rule: self.min >= 0",
            ]
        );
    }

    #[test]
    fn messages_and_places_can_be_made() {
        let schema = spec(
            json!([{"rule": "self.max < 10", "messageExpression": "'max is ' + string(self.max)",
                    "reason": "FieldValueForbidden", "fieldPath": ".max"}]),
            json!({"max": {"type": "integer"}}),
        );
        let found = texts(schema, json!({"spec": {"max": 12}}), None);
        assert_eq!(found, ["spec.max: Forbidden: max is 12"]);
    }

    #[test]
    fn changes_are_judged_against_what_was() {
        let schema = json!({"type": "object", "properties": {
            "name": {"type": "string", "x-kubernetes-validations":
                [{"rule": "self == oldSelf", "message": "is immutable"}]},
            "parts": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["id"], "items": {"type": "object",
                "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size"}],
                "properties": {"id": {"type": "string"}, "size": {"type": "integer"}}}}}});
        let old = json!({"name": "a", "parts": [{"id": "x", "size": 5}, {"id": "y", "size": 1}]});
        let new = json!({"name": "b", "parts": [{"id": "y", "size": 2}, {"id": "x", "size": 4},
            {"id": "z", "size": 0}]});
        assert_eq!(texts(schema.clone(), new.clone(), None), [""; 0]);
        assert_eq!(
            texts(schema, new, Some(old)),
            [
                r#"name: Invalid value: "b": is immutable"#,
                "parts[1]: Invalid value: failed rule: self.size >= oldSelf.size",
            ]
        );
    }

    #[test]
    fn the_libraries_are_there() {
        let fields = json!({"a": {"type": "array", "items": {"type": "integer"}},
            "q": {"type": "string"}, "t": {"type": "string", "format": "date-time"},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
            "x-y": {"type": "integer"}});
        let object = json!({"spec": {"a": [1, 2, 3], "q": "1Gi", "t": "2026-01-02T03:04:05Z",
            "m": {"k-1": "v"}, "x-y": 7}});
        let good = [
            "self.a.isSorted() && self.a.sum() == 6 && self.a.min() == 1 && self.a.max() == 3",
            "self.a.all(x, x > 0) && self.a.exists(x, x == 2) && self.a.map(x, x * 2) == [2, 4, 6]",
            "quantity(self.q).isLessThan(quantity('2Gi')) && isQuantity(self.q)",
            "quantity('1').add(quantity('1')).compareTo(quantity('2')) == 0",
            "self.t > timestamp('2025-01-01T00:00:00Z')",
            "self.m['k-1'] == 'v' && 'k-1' in self.m && !has(self.m.other)",
            "self.x__dash__y == 7",
            "'abc'.upperAscii() == 'ABC' && 'a,b'.split(',').size() == 2 && 'a1b'.find('[0-9]') == '1'",
            "isIP('10.0.0.1') && ip('::1').family() == 6 && isCIDR('10.0.0.0/8') && isURL('http://a')",
            "self.q.matches('^[0-9]+Gi$') && size(self.a) == 3",
            "has(self.q) ? true : false",
        ];
        for rule in good {
            let schema = spec(json!([{"rule": rule}]), fields.clone());
            assert_eq!(texts(schema, object.clone(), None), [""; 0], "{rule}");
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_refused_with_a_reason() {
        assert!(Expression::compile("self.a +").is_err());
        let error = Expression::compile("other.a == 1").unwrap_err();
        assert_eq!(error, "undeclared reference to 'other'");
    }

    #[test]
    fn expressions_may_be_about_other_values() {
        let says = |source: &str, values: &Values| {
            let names = ["object", "params", "variables"];
            Expression::compile_about(source, &names)?.say(values)
        };
        let mut values = Values::default();
        values.add("object", &json!({"spec": {"replicas": 3}, "kind": "X"}));
        values.add("params", &Value::Null);
        let many = says("object.spec.replicas > 2", &values).unwrap();
        assert_eq!(many.as_bool(), Some(true));
        values.add_entry("variables", "many", &many);
        let kind = says("object.kind + 'Y'", &values).unwrap();
        assert_eq!((kind.as_text(), kind.as_bool()), (Some("XY"), None));
        values.add_entry("variables", "kind", &kind);
        let both = "variables.many && variables.kind == 'XY' && params == null";
        assert_eq!(says(both, &values).unwrap().as_bool(), Some(true));
        assert!(says("object.spec.missing > 1", &values).is_err());
        let unknown = says("self.a", &values).unwrap_err();
        assert_eq!(unknown, "undeclared reference to 'self'");
        values.add("object", &json!(vec![1; 1000]));
        let costly = "object.all(a, object.all(b, object.all(c, a + b + c > 0)))";
        assert!(says(costly, &values).unwrap_err().contains("cost budget"));
    }

    #[test]
    fn a_failure_in_a_rule_is_a_refusal() {
        let schema = spec(json!([{"rule": "self.missing > 1"}]), json!({}));
        let found = texts(schema, json!({"spec": {}}), None);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].contains("evaluating rule: self.missing > 1"),
            "{found:?}"
        );
    }

    #[test]
    fn a_budget_that_is_just_spent_lets_nothing_pass() {
        let rules = json!([{"rule": "true"}, {"rule": "false"}, {"rule": "false"}]);
        let schema = json!({"type": "object", "x-kubernetes-validations": rules});
        let mut judge = Judge::with(1);
        let path = FieldPath::default();
        judge.walk(&json!({}), None, &Schema::parse(&schema), &path);
        assert_eq!(judge.errors.len(), 1, "{:?}", judge.errors);
        assert!(judge.errors[0].detail.contains("cost budget"));
    }

    #[test]
    fn loops_within_loops_are_paid_for() {
        let rule = "self.all(a, self.all(b, self.all(c, a + b + c < 0)))";
        let schema = json!({"type": "array", "items": {"type": "integer"},
            "x-kubernetes-validations": [{"rule": rule}]});
        let found = texts(schema, json!(vec![1; 1000]), None);
        assert!(found[0].contains("cost budget"), "{found:?}");
    }
}
