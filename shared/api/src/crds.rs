//! The CustomResourceDefinitions of every kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Value, json};

use crate::kinds::{Definition, definitions};

/// The definition of every kind, in the order in which a reader meets them.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    definitions().into_iter().map(complete).collect()
}

/// Adds what kube does not derive from the type.
fn complete(definition: Definition) -> CustomResourceDefinition {
    let Definition { crd, spec, status } = definition;
    let mut crd = with_quantities(pending(crd));
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        let Some(properties) = schema.and_then(|schema| schema.properties.as_mut()) else { continue };
        for (name, documented) in [("spec", &spec), ("status", &status)] {
            if let Some(schema) = properties.get_mut(name) {
                describe(schema, documented);
            }
        }
    }
    crd
}

/// Joins the lines of each paragraph: where they break in our sources means nothing to `kubectl explain`.
fn reflow(text: &str) -> String {
    text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

/// Reflows the description of a field and adds what each value of an enum means, as Kubernetes does for its own kinds.
fn describe(schema: &mut JSONSchemaProps, documented: &Value) {
    schema.description = schema.description.as_deref().map(reflow);
    if schema.enum_.is_some() {
        let mut values = Vec::new();
        variants(documented, &mut values);
        let text = schema.description.get_or_insert_default();
        text.push_str("\n\nPossible enum values:");
        text.extend(values.iter().map(|(value, meaning)| format!("\n - `\"{value}\"`: {}", reflow(meaning))));
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        if let Some(documented) = within(documented, "properties").and_then(|properties| properties.get(name)) {
            describe(property, documented);
        }
    }
    if let (Some(JSONSchemaPropsOrArray::Schema(items)), Some(documented)) =
        (&mut schema.items, within(documented, "items"))
    {
        describe(items, documented);
    }
}

/// The alternatives that a schema is put together from.
fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten()
}

/// The value of a key, of the schema itself or of one of its alternatives.
fn within<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    schema.get(key).or_else(|| alternatives(schema).find_map(|schema| within(schema, key)))
}

/// The values of an enum with their documentation.
fn variants(schema: &Value, found: &mut Vec<(String, String)>) {
    let value =
        schema.get("const").or_else(|| schema.get("enum")?.as_array().filter(|values| values.len() == 1)?.first());
    if let (Some(value), Some(meaning)) = (value.and_then(Value::as_str), schema.get("description")) {
        found.push((value.to_owned(), meaning.as_str().unwrap_or_default().to_owned()));
    }
    alternatives(schema).for_each(|schema| variants(schema, found));
}

/// Pattern of a quantity, from the validation message of the API server.
const QUANTITY: &str = r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$";

/// Refuses an invalid quantity with the name of its field. Without it, the API server would refuse the object that a controller
/// creates from it, and name neither field nor value.
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
        // The text of Kubernetes fills a page.
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

/// An object that no controller has reconciled is not ready: tools take one without conditions for
/// [complete](https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md). The API server itself adds this
/// condition where there is no status, and no request is spent on it. It has no lastTransitionTime, which a default cannot know, so the
/// time is not required.
fn pending(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        if let Some(status) = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status")) {
            status.default = Some(JSON(json!({"conditions": [{
                "type": "Ready",
                "status": "Unknown",
                "reason": crate::Reason::Pending,
                "message": "no controller has reconciled this object yet",
            }]})));
            let conditions = status.properties.as_mut().and_then(|properties| properties.get_mut("conditions"));
            if let Some(JSONSchemaPropsOrArray::Schema(condition)) =
                conditions.and_then(|conditions| conditions.items.as_mut())
            {
                condition.required.iter_mut().for_each(|required| required.retain(|name| name != "lastTransitionTime"));
            }
        }
    }
    crd
}
