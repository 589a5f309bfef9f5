use super::*;

#[test]
fn only_the_fullest_are_exported() {
    let all = [("a", 0.1), ("b", 0.9), ("c", 0.5), ("b", 0.2), ("d", 0.3)].map(|(name, used)| (name.to_owned(), used));
    let top: Vec<_> = fullest(all, 3).into_iter().map(|(customer, used)| (customer.database_namespace, used)).collect();
    assert_eq!(top, [("b".to_owned(), 0.9), ("c".to_owned(), 0.5), ("d".to_owned(), 0.3)]);
}
