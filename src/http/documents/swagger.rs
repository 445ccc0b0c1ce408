//! `/swagger/`: the REST API as a page, to read it and to try it.

use std::future::ready;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use utoipa_swagger_ui::{Config, serve};

use crate::http::errors::ApiError;
use crate::http::routes::open_resource;

/// The page has inline styles and images, and loads nothing from elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; \
                      base-uri 'none'; form-action 'none'";

/// The routes of Swagger UI, which shows `/openapi.yaml`.
pub fn routes(config: &mut web::ServiceConfig) {
    // Otherwise the page sends the document to a validator of Swagger UI's makers.
    let settings = Config::new(["../openapi.yaml"]).validator_url("none");
    let settings = Arc::new(settings);
    let file = move |path: web::Path<String>| ready(file(&path, settings.clone()));
    config
        .service(open_resource("/swagger", || ready(add_slash())))
        .service(open_resource("/swagger/{file:.*}", file));
}

fn add_slash() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, "swagger/"))
        .finish()
}

fn file(name: &str, settings: Arc<Config<'static>>) -> Result<HttpResponse, ApiError> {
    let found = serve(name, settings).ok().flatten();
    let found = found.ok_or_else(|| ApiError::NotFound(format!("/swagger/{name}")))?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::CACHE_CONTROL, "public, max-age=3600"))
        .content_type(found.content_type);
    if found.gzpipped {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response.body(found.bytes.into_owned()))
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::test::{TestRequest, call_service, init_service, read_body};

    use super::*;

    #[actix_web::test]
    async fn page_loads_only_its_own_files() {
        let app = init_service(App::new().configure(routes)).await;
        let get = |path: &str| TestRequest::get().uri(path).to_request();
        let slash = call_service(&app, get("/swagger")).await;
        let value_of = |response: &HttpResponse, name: header::HeaderName| {
            let value = response.headers().get(name).unwrap();
            value.to_str().unwrap().to_owned()
        };
        assert_eq!(slash.status(), 308);
        assert_eq!(value_of(slash.response(), header::LOCATION), "swagger/");
        let page = call_service(&app, get("/swagger/")).await;
        assert_eq!(
            value_of(page.response(), header::CONTENT_SECURITY_POLICY),
            POLICY
        );
        let page = String::from_utf8(read_body(page).await.to_vec()).unwrap();
        let files = page.split(['"']).filter(|part| part.starts_with("./"));
        let files: Vec<_> = files.collect();
        assert!(files.len() >= 4, "{page}");
        assert!(
            !page.contains("http://") && !page.contains("https://"),
            "{page}"
        );
        for file in files {
            let path = file.replacen("./", "/swagger/", 1);
            assert_eq!(call_service(&app, get(&path)).await.status(), 200, "{path}");
        }
        let settings = call_service(&app, get("/swagger/swagger-initializer.js")).await;
        let settings = String::from_utf8(read_body(settings).await.to_vec()).unwrap();
        assert!(settings.contains("\"../openapi.yaml\""), "{settings}");
        assert!(
            settings.contains("\"validatorUrl\": \"none\""),
            "{settings}"
        );
        let none = call_service(&app, get("/swagger/none.js")).await;
        assert_eq!(none.status(), 404);
    }
}
