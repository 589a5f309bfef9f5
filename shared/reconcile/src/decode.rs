//! Decodes objects. Errors do not contain values of the object.

use ahoi_api::Object;
use serde_json::Value;

/// The maximum length of an error text.
const MAX_EXPLANATION_CHARS: usize = 300;

/// Decodes an object. Its managed fields may contain a time that our types cannot represent; since no controller reads them, it is
/// then decoded without. The error is safe to log.
pub(crate) fn decode<K: Object>(text: &str) -> Result<K, String> {
    if let Ok(object) = serde_json::from_str(text) {
        return Ok(object);
    }
    let mut value: Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.remove("managedFields");
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        // An error may quote a value, and all values of a Secret are secret.
        match &*K::kind(&()) {
            "Secret" => format!("{path} has a value that this release cannot read"),
            _ => format!("{path}: {}", without_values(&error.into_inner().to_string())),
        }
    })
}

/// The text without quoted strings: serde quotes unexpected values.
pub(crate) fn without_values(text: &str) -> String {
    let (mut kept, mut quoted, mut escaped) = (String::new(), false, false);
    for char in text.chars() {
        match char {
            '"' if !escaped => {
                kept.push_str(if quoted { "…\"" } else { "\"" });
                quoted = !quoted;
            }
            _ if !quoted => kept.push(char),
            _ => {}
        }
        escaped = quoted && char == '\\' && !escaped;
    }
    kept.chars().take(MAX_EXPLANATION_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;

    fn managed_in_year_9999() -> Value {
        json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "time": "9999-12-31T23:59:59Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}}])
    }

    #[test]
    fn managed_fields_that_cannot_be_read_are_dropped() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "dg=="},
            "metadata": {"name": "p", "labels": {"a": "b"}, "managedFields": managed_in_year_9999()}});
        assert!(serde_json::from_value::<Secret>(secret.clone()).is_err(), "the types read it, this code can go");
        let decoded: Secret = decode(&secret.to_string()).unwrap();
        assert_eq!(decoded.metadata.labels.unwrap()["a"], "b");
        assert_eq!(decoded.data.unwrap()["k"].0, b"v");
    }

    #[test]
    fn an_error_names_the_field_and_quotes_no_value() {
        let secret = json!({"metadata": {"name": "p"}, "data": {"password": "hunter2"}}).to_string();
        let error = decode::<Secret>(&secret).unwrap_err();
        assert_eq!(error, "data.password has a value that this release cannot read");
        let deployment =
            json!({"metadata": {"name": "p"}, "spec": {"replicas": "hunter\"2", "selector": {}}}).to_string();
        let error = decode::<Deployment>(&deployment).unwrap_err();
        assert!(error.starts_with("spec.replicas: invalid type: string \"…\", expected i32"), "{error}");
    }

    #[test]
    fn quoted_text_is_removed() {
        assert_eq!(without_values(r#"a "b\"c" d "" `e`"#), r#"a "…" d "…" `e`"#);
        assert_eq!(without_values(r#"cut "off"#), r#"cut ""#);
        assert_eq!(without_values(&"x".repeat(1000)).len(), MAX_EXPLANATION_CHARS);
    }
}
