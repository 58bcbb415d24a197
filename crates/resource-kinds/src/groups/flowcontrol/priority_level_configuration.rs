//! flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration.

use std::sync::LazyLock;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use super::{EXEMPT, GROUP, LEVELS, check_conditions, mandatory};
use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{Kind, KindInfo, StatusUpdate, WriteRules};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::Field;

#[derive(Debug)]
pub struct PriorityLevelConfiguration;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        has_generation: true,
        ..WriteRules::ORDINARY
    },

    subresources: &[STATUS],
    ..cluster(Names {
        group: GROUP,
        kind: "PriorityLevelConfiguration",
        list_kind: "PriorityLevelConfigurationList",
        plural: LEVELS,
        singular: "prioritylevelconfiguration",
        short: &[],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column("Type", "Whether requests of the level are limited."),
    table::column(
        "NominalConcurrencyShares",
        "The level's part of the server.",
    ),
    table::column("Queues", "Queues for requests that wait."),
    table::column("HandSize", "Queues that one flow may use."),
    table::column("QueueLengthLimit", "Requests that may wait in a queue."),
    table::AGE,
];

const SHARES_DEFAULT: i64 = 30;
const QUEUES_DEFAULT: i64 = 64;
const HAND_DEFAULT: i64 = 8;
const LENGTH_DEFAULT: i64 = 50;
const QUEUES_MAX: i64 = 10_000_000;
/// The queues of a hand are chosen from a hash of this many bits.
const HASH_BITS: i64 = 60;

/// The mandatory levels, whose specs are fixed.
static FIXED: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut all = mandatory();
    all.retain(|object| object["kind"] == INFO.kind);
    all
});

impl Kind for PriorityLevelConfiguration {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else {
            return;
        };
        if let Some(exempt) = spec.get_mut("exempt") {
            parts::fill(exempt, "nominalConcurrencyShares", 0);
            parts::fill(exempt, "lendablePercent", 0);
        }
        let Some(limited) = spec.get_mut("limited") else {
            return;
        };
        parts::fill(limited, "nominalConcurrencyShares", SHARES_DEFAULT);
        parts::fill(limited, "lendablePercent", 0);
        let response = limited.get_mut("limitResponse");
        let Some(queuing) = response.and_then(|response| response.get_mut("queuing")) else {
            return;
        };
        for (field, number) in [
            ("handSize", HAND_DEFAULT),
            ("queues", QUEUES_DEFAULT),
            ("queueLengthLimit", LENGTH_DEFAULT),
        ] {
            if queuing[field] == 0 {
                parts::set(queuing, field, number);
            }
            parts::fill(queuing, field, number);
        }
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }
}

impl Printer for PriorityLevelConfiguration {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let limited = &spec["limited"];
        let queuing = &limited["limitResponse"]["queuing"];
        let number = |value: &Value| {
            value
                .as_i64()
                .map_or(json!("<none>"), |number_value| json!(number_value))
        };
        vec![
            table::name(object),
            table::text_or(&spec["type"], ""),
            number(&limited["nominalConcurrencyShares"]),
            number(&queuing["queues"]),
            number(&queuing["handSize"]),
            number(&queuing["queueLengthLimit"]),
            table::age(object, now),
        ]
    }
}

impl StatusUpdate for PriorityLevelConfiguration {
    fn validate_status_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        check_conditions(object)
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let root = Field::root(object);
    let name = root.get_path("metadata.name").text();
    let spec = root.get("spec");
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    let mut errors = Vec::new();
    if (name == EXEMPT) != (kind.text() == "Exempt") {
        errors.push(kind.invalid("type must be 'Exempt' if and only if name is 'exempt'"));
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            check_shares(&exempt, &mut errors);
        }
        "Limited" => {
            if exempt.is_set() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                check_limited(&limited, &mut errors);
            } else {
                errors.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => errors.push(kind.not_supported(&["Exempt", "Limited"])),
    }
    let same_name = |fixed: &&Value| fixed["metadata"]["name"] == name;
    if let Some(fixed) = FIXED.iter().find(same_name) {
        errors
            .extend(fixed_refusal(name, spec.value, &fixed["spec"]).map(|text| spec.invalid(text)));
    }
    errors
}

/// The error for the spec of a mandatory level. The shares of the level `exempt` may be changed.
fn fixed_refusal(name: &str, spec: &Value, fixed: &Value) -> Option<String> {
    let mut expected = fixed.clone();
    if name != EXEMPT {
        let same = *spec == expected;
        return (!same).then(|| format!("spec of '{name}' must equal the fixed value"));
    }
    parts::restore(&mut expected, spec, "exempt");
    let same = *spec == expected;
    (!same).then(|| {
        format!("spec of '{name}' except the 'spec.exempt' field must equal the fixed value")
    })
}

fn check_shares(of: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let shares = of.get("nominalConcurrencyShares");
    if shares.int().is_some_and(|number| number < 0) {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
    let percent = of.get("lendablePercent");
    if percent
        .int()
        .is_some_and(|number| !(0..=100).contains(&number))
    {
        errors.push(percent.invalid("must be between 0 and 100, inclusive"));
    }
}

fn check_limited(limited: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    check_shares(limited, errors);
    let percent = limited.get("borrowingLimitPercent");
    if percent.int().is_some_and(|number| number < 0) {
        errors.push(percent.invalid("if specified, must be a non-negative integer"));
    }
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => {
            let text = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(queuing.forbidden(text));
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => check_queuing(&queuing, errors),
        "Queue" => {
            let text = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(queuing.required(text));
        }
        _ => errors.push(kind.not_supported(&["Queue", "Reject"])),
    }
}

fn check_queuing(queuing: &Field<'_, '_>, errors: &mut Vec<FieldError>) {
    let field = |name: &'static str| {
        let at = queuing.get_path(name);
        let number = at.int().unwrap_or_default();
        (at, number)
    };
    let (length, most) = field("queueLengthLimit");
    if most <= 0 {
        errors.push(length.invalid("must be positive"));
    }
    let (queues, count) = field("queues");
    if count <= 0 {
        errors.push(queues.invalid("must be positive"));
    } else if count > QUEUES_MAX {
        errors.push(queues.invalid(format!("must not be greater than {QUEUES_MAX}")));
    }
    let (hand, size) = field("handSize");
    if size <= 0 {
        errors.push(hand.invalid("must be positive"));
    } else if size > count {
        let text = format!("should not be greater than queues ({count})");
        errors.push(hand.invalid(text));
    } else if entropy_bits(count, size) > HASH_BITS {
        cov_mark::hit!(findings_c52);
        let text = format!(
            "required entropy bits of deckSize {count} and handSize {size} should not be greater \
             than {HASH_BITS}"
        );
        errors.push(hand.invalid(text));
    }
}

/// The approximate number of hash bits that the choice of a hand needs.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "both are small"
)]
fn entropy_bits(queues: i64, hand: i64) -> i64 {
    ((queues as f64).log2() * hand as f64).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::flowcontrol::suggested;

    const LEVEL: PriorityLevelConfiguration = PriorityLevelConfiguration;

    fn object(name: &str, spec: Value) -> Value {
        let level = json!({"metadata": {"name": name}, "spec": spec});
        let mut level = LEVEL.decode(level).unwrap();
        LEVEL.default(&mut level);
        level
    }

    fn refusals(name: &str, spec: Value) -> Vec<String> {
        let errors = LEVEL.validate_create(&object(name, spec));
        errors.iter().map(ToString::to_string).collect()
    }

    fn queues(queuing: Value) -> Value {
        json!({"type": "Limited", "limited": {
            "limitResponse": {"type": "Queue", "queuing": queuing}}})
    }

    /// findings C52
    #[test]
    fn a_level_gets_defaults() {
        let level = object("a", queues(json!({"queues": 0})));
        assert_eq!(
            level["spec"]["limited"],
            json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse": {
                "type": "Queue",
                "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}})
        );
        let zero = object(
            "a",
            json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}}}),
        );
        assert_eq!(zero["spec"]["limited"]["nominalConcurrencyShares"], 0);
        assert_eq!(LEVEL.validate_create(&zero), []);
    }

    /// findings C52
    #[test]
    fn a_level_is_exempt_or_limited() {
        assert_eq!(
            refusals("a", json!({"type": "Exempt"})),
            [
                "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is \
              'exempt'"
            ]
        );
        assert_eq!(
            refusals("a", json!({"type": "Limited", "exempt": {}})),
            [
                "spec.exempt: Forbidden: must be nil if the type is Limited",
                "spec.limited: Required value: must not be empty when type is Limited",
            ]
        );
        assert_eq!(
            refusals("a", json!({"type": "x"})),
            ["spec.type: Unsupported value: \"x\": supported values: \"Exempt\", \"Limited\""]
        );
        let limited = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": -1,
            "lendablePercent": 101, "borrowingLimitPercent": -1,
            "limitResponse": {"type": "Reject", "queuing": {}}}});
        assert_eq!(
            refusals("a", limited),
            [
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative \
                 integer",
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, \
                 inclusive",
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a \
                 non-negative integer",
                "spec.limited.limitResponse.queuing: Forbidden: must be nil if \
                 limited.limitResponse.type is not Limited",
            ]
        );
    }

    /// findings C52
    #[test]
    fn a_hand_is_smaller_than_the_deck_and_the_hash() {
        cov_mark::check!(findings_c52);
        let at = "spec.limited.limitResponse.queuing";
        assert_eq!(
            refusals("a", queues(json!({"queues": 4}))),
            [format!(
                "{at}.handSize: Invalid value: 8: should not be greater than queues (4)"
            )]
        );
        assert_eq!(
            refusals("a", queues(json!({"queues": 10_000_001, "handSize": -1}))),
            [
                format!("{at}.queues: Invalid value: 10000001: must not be greater than 10000000"),
                format!("{at}.handSize: Invalid value: -1: must be positive"),
            ]
        );
        assert_eq!(
            refusals("a", queues(json!({"queues": 128, "handSize": 9}))),
            [format!(
                "{at}.handSize: Invalid value: 9: required entropy bits of deckSize 128 and \
                 handSize 9 should not be greater than 60"
            )]
        );
        assert_eq!(
            refusals("a", queues(json!({"queues": 1, "handSize": 1}))),
            [""; 0]
        );
    }

    /// findings C51
    #[test]
    fn default_levels_are_complete_and_the_mandatory_ones_fixed() {
        let all = mandatory().into_iter().chain(suggested());
        for level in all.filter(|object| object["kind"] == INFO.kind) {
            let mut decoded = LEVEL.decode(level.clone()).unwrap();
            LEVEL.default(&mut decoded);
            assert_eq!(decoded["spec"], level["spec"]);
            assert_eq!(LEVEL.validate_create(&decoded), []);
        }
        let shares = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 7}});
        assert_eq!(refusals(EXEMPT, shares), [""; 0]);
        let reject = json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}});
        let error = refusals("catch-all", reject.clone());
        assert!(
            error[0].ends_with("spec of 'catch-all' must equal the fixed value"),
            "{error:?}"
        );
        let error = refusals(EXEMPT, reject);
        assert!(
            error[1].ends_with(
                "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value"
            ),
            "{error:?}"
        );
    }

    /// findings C51
    #[test]
    fn a_row_shows_the_queues() {
        let row = LEVEL.row(&object("a", queues(json!({}))), Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[1..6],
            [json!("Limited"), json!(30), json!(64), json!(8), json!(50)]
        );
        let exempt = object(EXEMPT, json!({"type": "Exempt"}));
        assert_eq!(LEVEL.row(&exempt, Timestamp::UNIX_EPOCH)[2], "<none>");
    }
}
