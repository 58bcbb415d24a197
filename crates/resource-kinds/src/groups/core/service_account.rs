//! core/v1 ServiceAccount.

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::FieldError;

use crate::kind::info::{Names, action, namespaced};
use crate::kind::{Kind, KindInfo, WriteRules};
use crate::printing::{Cell, Column, Printer, table};

#[derive(Debug)]
pub struct ServiceAccount;

const INFO: KindInfo<'static> = KindInfo {
    writes: WriteRules {
        unconditional_update: false,
        ..WriteRules::ORDINARY
    },

    subresources: &[action("token", "authentication.k8s.io", "TokenRequest")],
    ..namespaced(Names {
        group: "",
        kind: "ServiceAccount",
        list_kind: "ServiceAccountList",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short: &["sa"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::column(
        "Secrets",
        "Number of Secrets that pods of this account may use.",
    ),
    table::AGE,
];

impl Kind for ServiceAccount {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    fn validate_content(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }
}

impl Printer for ServiceAccount {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let secrets = table::count(&object["secrets"]);
        vec![table::name(object), json!(secrets), table::age(object, now)]
    }
}
