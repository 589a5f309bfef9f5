use super::*;

fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn names_get_the_stored_spelling() {
    let checked = check(&parameters(&[("timezone", "Europe/Berlin"), ("statement_timeout", "30s")])).unwrap();
    assert_eq!(checked, parameters(&[("TimeZone", "Europe/Berlin"), ("statement_timeout", "30s")]));
}

#[test]
fn a_search_path_is_a_list_of_names() {
    let checked = check(&parameters(&[("Search_Path", "App,\"$user\",  public")])).unwrap();
    assert_eq!(checked, parameters(&[("search_path", "app, \"$user\", public")]));
    assert!(check(&parameters(&[("search_path", "app public")])).is_err());
}

#[test]
fn dangerous_and_unknown_parameters_are_refused() {
    for name in [
        "role",
        "session_authorization",
        "session_preload_libraries",
        "local_preload_libraries",
        "temp_tablespaces",
        "my.own",
        "",
        "x'; --",
    ] {
        let error = check(&parameters(&[("work_mem", "8MB"), (name, "1")])).unwrap_err();
        assert_eq!(error.reason(), "InvalidParameter");
        assert!(error.to_string().contains(&format!("spec.parameters[{name}]")), "{error}");
    }
    assert!(check(&parameters(&[("work_mem", "8\nMB")])).is_err());
}

#[test]
fn a_refusal_of_the_server_names_the_parameter() {
    let given = parameters(&[("statement_timeout", "soon"), ("work_mem", "8MB")]);
    let error = refused_by_server(&given, r#"invalid value for parameter "statement_timeout": "soon""#);
    assert_eq!(
        error.to_string(),
        r#"spec.parameters[statement_timeout]: invalid value for parameter "statement_timeout": "soon". Correct or remove it"#
    );
}
