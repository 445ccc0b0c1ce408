//! The table of a service: each method with its handler and the scope that it requires. The
//! generated trait is implemented from the table alone, so a method that is not listed, or is listed
//! without a rule, does not compile.

/// Implements the generated trait of a service. Every method goes through the service's `admission`.
macro_rules! service {
    (
        $trait:path, for $api:ident, named $service:literal;
        $($name:literal $method:ident($request:ty) -> $response:ty: $rule:expr;)+
        $(stream $stream:ident: $stream_type:ty = $stream_name:literal $stream_method:ident($stream_request:ty): $stream_rule:expr;)*
    ) => {
        /// The methods, as in metrics.
        pub(super) const METHODS: &[&str] = &[
            $(concat!($service, "/", $name),)+
            $(concat!($service, "/", $stream_name),)*
        ];

        #[tonic::async_trait]
        impl $trait for $api {
            $(
                async fn $method(
                    &self,
                    request: tonic::Request<$request>,
                ) -> Result<tonic::Response<$response>, tonic::Status> {
                    let handle = |call, message| self.$method(call, message);
                    self.admission.call(concat!($service, "/", $name), $rule, request, handle).await
                }
            )+
            $(
                type $stream = $stream_type;

                async fn $stream_method(
                    &self,
                    request: tonic::Request<$stream_request>,
                ) -> Result<tonic::Response<Self::$stream>, tonic::Status> {
                    let handle = |call, message| self.$stream_method(call, message);
                    self.admission.call(concat!($service, "/", $stream_name), $stream_rule, request, handle).await
                }
            )*
        }
    };
}
pub(super) use service;
