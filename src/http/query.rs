//! Query parameters, each refused by its name.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::{Ready, ready};
use std::str::FromStr;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest, web};

use super::errors::ApiError;

/// The parameters of a request. Unknown ones are ignored.
pub struct Query(HashMap<String, String>);

impl FromRequest for Query {
    type Error = ApiError;
    type Future = Ready<Result<Query, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = web::Query::<HashMap<String, String>>::from_query(request.query_string());
        ready(query.map(|query| Query(query.0)).map_err(|error| ApiError::BadRequest(error.to_string())))
    }
}

impl Query {
    /// A parameter, where it stands and is not empty.
    pub fn parsed<T>(&self, parameter: &'static str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.0.get(parameter).filter(|text| !text.is_empty());
        let read = text.map(|text| text.parse()).transpose();
        read.map_err(|error: T::Err| ApiError::BadQuery { parameter, problem: error.to_string() })
    }

    /// A whole number from `least` to `most`.
    pub fn number(&self, parameter: &'static str, least: usize, most: usize) -> Result<Option<usize>, ApiError> {
        let problem =
            || ApiError::BadQuery { parameter, problem: format!("a whole number {least} to {most} is wanted") };
        let number: Option<usize> = self.parsed(parameter).map_err(|_| problem())?;
        match number {
            Some(number) if !(least..=most).contains(&number) => Err(problem()),
            number => Ok(number),
        }
    }
}
