//! The walker against the codec: random bytes that follow a layout are what the codec decodes, to the last byte, and
//! what it encodes again; and nothing that the walker lets through makes the codec take more than its share.

use bytes::Bytes;
use kafka_protocol::messages;
use kafka_protocol::protocol::{Decodable, Request};

use super::*;
use crate::api::{ApiKey, RequestBody};

/// A small generator of numbers, so that a failure is reproduced by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below the bound")
    }
}

/// Writes random content that follows a layout.
struct Generator {
    random: Random,
    version: i16,
    flexible: bool,
    out: Vec<u8>,
}

impl Generator {
    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn length(&mut self, ty: Type, length: Option<usize>) {
        let length = length.map_or(-1, |length| i32::try_from(length).expect("short"));
        if self.flexible {
            self.varint((length + 1).cast_unsigned());
        } else if matches!(ty, Type::String) {
            self.out.extend(i16::try_from(length).expect("short").to_be_bytes());
        } else {
            self.out.extend(length.to_be_bytes());
        }
    }

    fn bytes(&mut self, count: usize) {
        for _ in 0..count {
            let byte = self.random.next() as u8;
            self.out.push(byte);
        }
    }

    fn fields(&mut self, fields: &'static [Field]) {
        let version = self.version;
        let (tagged, plain): (Vec<&Field>, Vec<&Field>) =
            fields.iter().filter(|field| field.exists_in(version)).partition(|field| field.tag.is_some());
        for field in plain {
            self.value(field.ty, version >= field.nullable_since, false);
        }
        if self.flexible {
            self.tagged(&tagged);
        }
    }

    fn tagged(&mut self, known: &[&Field]) {
        let known: Vec<&&Field> = known.iter().filter(|_| self.random.below(2) == 0).collect();
        let unknown = self.random.below(3);
        self.varint(u32::try_from(known.len() + unknown).expect("few"));
        for field in known {
            let before = std::mem::take(&mut self.out);
            // Tagged fields that have their default value are not written again.
            self.value(field.ty, false, true);
            let content = std::mem::replace(&mut self.out, before);
            self.varint(field.tag.expect("tagged"));
            self.varint(u32::try_from(content.len()).expect("short"));
            self.out.extend(content);
        }
        for tag in 0..unknown {
            self.varint(u32::try_from(100 + tag).expect("small"));
            let length = self.random.below(5);
            self.varint(u32::try_from(length).expect("short"));
            self.bytes(length);
        }
    }

    fn value(&mut self, ty: Type, nullable: bool, never_default: bool) {
        let is_null = nullable && self.random.below(4) == 0;
        match ty {
            Type::Bool => {
                let value = self.random.below(2) as u8;
                self.out.push(value);
            }
            Type::Int8 => self.bytes(1),
            Type::Int16 => self.bytes(2),
            Type::Int32 => self.bytes(4),
            Type::Int64 => self.bytes(8),
            Type::Uuid => self.bytes(16),
            Type::String | Type::Records | Type::Array(_) if is_null => self.length(ty, None),
            Type::String => {
                let length = self.random.below(20) + usize::from(never_default);
                self.length(ty, Some(length));
                for _ in 0..length {
                    let letter = b'a' + self.random.below(26) as u8;
                    self.out.push(letter);
                }
            }
            Type::Records => {
                let length = self.random.below(300);
                self.length(ty, Some(length));
                self.bytes(length);
            }
            Type::Array(element) => {
                let count = self.random.below(4);
                self.length(ty, Some(count));
                for _ in 0..count {
                    self.value(*element, false, false);
                }
            }
            Type::Struct(_) if is_null => self.out.push(0xff),
            Type::Struct(fields) => {
                if nullable {
                    self.out.push(1);
                }
                self.fields(fields);
            }
        }
    }
}

fn generate(api: ApiKey, version: i16, seed: u64) -> Vec<u8> {
    generate_by(api.schema(), version, seed)
}

fn generate_by(schema: &'static Schema, version: i16, seed: u64) -> Vec<u8> {
    let flexible = version >= schema.flexible_since;
    let mut generator = Generator { random: Random(seed), version, flexible, out: Vec::new() };
    generator.fields(schema.fields);
    generator.out
}

/// Random responses of one API: what the walker lets through, the codec decodes to the same end. A null that a version
/// does not allow is the codec's to refuse.
fn walker_and_codec_agree_on_responses_to<R: Request>() {
    let schema = responses::of(R::KEY).expect("has a layout");
    for version in R::VERSIONS.min..=R::VERSIONS.max {
        let mut decoded = 0;
        for seed in 0..200 {
            let bytes = generate_by(schema, version, seed);
            let context = format!("response {} version {version} seed {seed}", R::KEY);
            let walked = walk_response(schema, version, &bytes).map(|walked| walked.consumed);
            assert_eq!(walked, Ok(bytes.len()), "{context}");
            let mut rest = Bytes::from(bytes.clone());
            match R::Response::decode(&mut rest, version) {
                Ok(_) => {
                    assert!(rest.is_empty(), "{context}: {} bytes left", rest.len());
                    decoded += 1;
                }
                Err(error) => assert!(error.to_string().contains("null"), "{context}: {error}"),
            }
            for length in 0..bytes.len().min(40) {
                assert!(
                    walk_response(schema, version, &bytes[..length]).is_err(),
                    "{context} cut at {length}"
                );
            }
        }
        assert!(decoded >= 20, "response {} version {version}: only {decoded} are decoded", R::KEY);
    }
}

#[test]
fn walker_and_codec_agree_on_responses() {
    walker_and_codec_agree_on_responses_to::<messages::ProduceRequest>();
    walker_and_codec_agree_on_responses_to::<messages::FetchRequest>();
    walker_and_codec_agree_on_responses_to::<messages::ListOffsetsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::MetadataRequest>();
    walker_and_codec_agree_on_responses_to::<messages::ApiVersionsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::CreateTopicsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::DeleteTopicsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::DeleteRecordsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::InitProducerIdRequest>();
    walker_and_codec_agree_on_responses_to::<messages::OffsetForLeaderEpochRequest>();
    walker_and_codec_agree_on_responses_to::<messages::DescribeConfigsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::DescribeLogDirsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::CreatePartitionsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::ElectLeadersRequest>();
    walker_and_codec_agree_on_responses_to::<messages::IncrementalAlterConfigsRequest>();
    walker_and_codec_agree_on_responses_to::<messages::DescribeClusterRequest>();
    walker_and_codec_agree_on_responses_to::<messages::DescribeTopicPartitionsRequest>();
}

/// Found by the fuzz target `response`: an array that claims to have two thousand million elements ended the process.
#[test]
fn hostile_count_in_a_response_is_refused_before_memory_is_taken() {
    let body = [&[0, 0, 0, 9][..], &[0; 4], &i32::MAX.to_be_bytes()].concat();
    let error = crate::decode_response::<messages::FetchRequest>(body.into(), 4).expect_err("refused");
    assert!(error.to_string().contains("reaches beyond the end"), "{error}");
}

fn every_version() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::ALL.iter().flat_map(|&api| {
        let versions = api.served_versions();
        (versions.min..=versions.max).map(move |version| (api, version))
    })
}

#[test]
fn walker_and_codec_agree_on_every_version() {
    for (api, version) in every_version() {
        for seed in 0..200 {
            let bytes = generate(api, version, seed);
            let context = format!("{} version {version} seed {seed}", api.name());
            let walked = walk(api.schema(), version, &bytes);
            assert_eq!(walked.map(|walked| walked.consumed), Ok(bytes.len()), "{context}");
            let mut rest = Bytes::from(bytes.clone());
            let body = RequestBody::decode(api, version, &mut rest).expect(&context);
            assert!(rest.is_empty(), "{context}: {} bytes left", rest.len());
            assert_eq!(body.encode(version), bytes, "{context}");
        }
    }
}

#[test]
fn every_prefix_is_refused_as_cut() {
    for (api, version) in every_version() {
        let bytes = generate(api, version, 7);
        for length in 0..bytes.len() {
            let walked = walk(api.schema(), version, &bytes[..length]);
            assert!(walked.is_err(), "{} version {version} cut at {length}", api.name());
        }
    }
}

#[test]
fn damaged_requests_neither_panic_nor_disagree() {
    for (api, version) in every_version() {
        for seed in 0..200 {
            let mut bytes = generate(api, version, seed);
            let mut random = Random(seed + 1_000_000);
            for _ in 0..=random.below(3) {
                if !bytes.is_empty() {
                    let at = random.below(bytes.len());
                    bytes[at] = [0x00, 0xff, 0x7f, 0x80, random.next() as u8][random.below(5)];
                }
            }
            let Ok(walked) = walk(api.schema(), version, &bytes) else { continue };
            let mut rest = Bytes::from(bytes.clone());
            if RequestBody::decode(api, version, &mut rest).is_ok() {
                let consumed = bytes.len() - rest.len();
                assert_eq!(consumed, walked.consumed, "{} version {version} seed {seed}", api.name());
            }
        }
    }
}

#[test]
fn hostile_count_is_refused_before_memory_is_taken() {
    // Metadata version 1: one array of topics, which claims two thousand million of them.
    let error = walk(ApiKey::Metadata.schema(), 1, &i32::MAX.to_be_bytes()).expect_err("refused");
    assert_eq!(error, BoundsError::BeyondEnd { field: "Topics", position_bytes: 4 });
    // The same, compact.
    let error = walk(ApiKey::Metadata.schema(), 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]).expect_err("refused");
    assert_eq!(error, BoundsError::BeyondEnd { field: "Topics", position_bytes: 5 });
}

#[test]
fn elements_are_counted_over_all_arrays() {
    // Metadata version 1: empty names of two bytes each, one more than allowed.
    let mut bytes = (i32::try_from(MAX_ELEMENTS).expect("fits") + 1).to_be_bytes().to_vec();
    bytes.resize(4 + 2 * (MAX_ELEMENTS + 1), 0);
    assert_eq!(
        walk(ApiKey::Metadata.schema(), 1, &bytes),
        Err(BoundsError::TooManyElements { limit: MAX_ELEMENTS })
    );
    bytes[..4].copy_from_slice(&i32::try_from(MAX_ELEMENTS).expect("fits").to_be_bytes());
    assert!(walk(ApiKey::Metadata.schema(), 1, &bytes).is_ok());
}

#[test]
fn overlong_varint_is_refused() {
    let error = walk(ApiKey::Metadata.schema(), 9, &[0x80, 0x80, 0x80, 0x80, 0x10]).expect_err("refused");
    assert_eq!(error, BoundsError::Overlong { field: "Topics", position_bytes: 0 });
}
