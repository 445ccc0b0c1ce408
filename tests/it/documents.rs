//! The documents of the API: consistent in themselves, and equal to what the program does. That every
//! answer, frame and record fits is checked wherever a test receives one (`support::documents`).

mod codes;
mod examples;
mod records;
mod served;
