//! The CustomResourceDefinitions of every kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::json;

use crate::kinds::definitions;

/// The definition of every kind, in the order in which a reader meets them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    definitions().into_iter().map(|crd| with_quantities(pending(crd))).collect()
}

/// What Kubernetes takes for a quantity, as its own API server says when it refuses one.
const QUANTITY: &str = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$";

/// A quantity that nothing can be made from is refused where it is written, by the name of its field: the API server's refusal of
/// the object that is made from it names neither the field nor the value.
fn with_quantities(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        schema.into_iter().for_each(quantities);
    }
    crd
}

fn quantities(schema: &mut JSONSchemaProps) {
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.pattern = Some(QUANTITY.to_owned());
        let text = schema.description.get_or_insert_default();
        // It goes on for a page.
        if text.starts_with("Quantity is ") {
            "A quantity, such as 2, 500m or 1Gi.".clone_into(text);
        }
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(quantities);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        quantities(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        quantities(values);
    }
}

/// An object that no controller has looked at yet is not ready, and says so: tools take one without conditions for
/// [complete](https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md). The API server itself puts this
/// where there is no status, and no request is spent on it.
fn pending(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        if let Some(status) = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status")) {
            status.default = Some(JSON(json!({"conditions": [{
                "type": "Ready",
                "status": "Unknown",
                "reason": "Pending",
                "message": "no controller has looked at it yet",
                "lastTransitionTime": "1970-01-01T00:00:00Z",
            }]})));
        }
    }
    crd
}
