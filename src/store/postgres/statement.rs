//! Statements with a fixed text, prepared once per connection. Diesel prepares a `sql_query` again
//! for each call.

/// Defines a query from SQL text and named values in between. `returns` gives the column types of
/// queries that return rows. A query is executed by reference, so that it can be retried.
macro_rules! statement {
    (
        $(#[$doc:meta])*
        $name:ident $(<$life:lifetime>)? $(returns ($($column:ty),+))?:
        $first:literal $({ $value:ident: $type:ty as $sql_type:ty } $text:literal)*
    ) => {
        $(#[$doc])*
        pub(super) struct $name $(<$life>)? {
            $(pub(super) $value: $type,)*
        }

        const _: () = {
            /// The query id. It identifies the text, which is the same for all values.
            pub(super) struct FixedText;

            impl $(<$life>)? diesel::query_builder::QueryId for $name $(<$life>)? {
                type QueryId = FixedText;
                const HAS_STATIC_QUERY_ID: bool = true;
            }

            impl $(<$life>)? diesel::query_builder::QueryFragment<diesel::pg::Pg> for $name $(<$life>)? {
                fn walk_ast<'b>(
                    &'b self,
                    mut out: diesel::query_builder::AstPass<'_, 'b, diesel::pg::Pg>,
                ) -> diesel::QueryResult<()> {
                    out.push_sql($first);
                    $(
                        out.push_bind_param::<$sql_type, _>(&self.$value)?;
                        out.push_sql($text);
                    )*
                    Ok(())
                }
            }

            impl<'s $(, $life)?> diesel::RunQueryDsl<diesel::pg::PgConnection> for &'s $name $(<$life>)? {}

            impl $(<$life>)? diesel::query_builder::Query for $name $(<$life>)? {
                type SqlType = ($($($column,)+)?);
            }
        };
    };
}
pub(super) use statement;
