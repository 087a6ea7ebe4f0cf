//! Numerics, each as PostgreSQL answers.

use super::*;

fn read(text: &str) -> Numeric {
    Numeric::read(Format::Text, text.as_bytes()).unwrap()
}

fn text(numeric: &Numeric) -> String {
    let mut out = Vec::new();
    numeric.put(Format::Text, &mut out);
    String::from_utf8(out).unwrap()
}

fn key(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    put_key(Format::Text, text.as_bytes(), &mut key).unwrap();
    key
}

const ORDERED: [&str; 19] = [
    "-Infinity",
    "-100000000000000000000",
    "-12.5",
    "-12.49",
    "-1",
    "-0.5",
    "-0.05",
    "-0.0000001",
    "0",
    "0.0000001",
    "0.05",
    "0.5",
    "0.51",
    "1",
    "9.9999",
    "12.49",
    "1e0",
    "Infinity",
    "NaN",
];

#[test]
fn keys_have_the_order_of_values() {
    let ordered: Vec<_> = ORDERED.iter().filter(|text| !text.contains('e')).collect();
    for pair in ordered.windows(2) {
        assert!(key(pair[0]) < key(pair[1]), "{pair:?}");
    }
    for (a, b) in [
        ("1", "1.000"),
        ("0", "-0.00"),
        ("10", "10.0"),
        ("0.10", "0.1"),
    ] {
        assert_eq!(key(a), key(b));
    }
}

#[test]
fn what_is_written_is_read_in_both_formats() {
    for text_form in [
        "0",
        "0.00",
        "1",
        "-1",
        "10000",
        "9999",
        "0.0001",
        "0.00012",
        "123456789.987654321",
        "-0.5",
        "100000000000000000000.00000000001",
        "NaN",
        "Infinity",
        "-Infinity",
        "1000000.10",
    ] {
        let value = read(text_form);
        assert_eq!(text(&value), text_form);
        let mut binary = Vec::new();
        value.put(Format::Binary, &mut binary);
        assert_eq!(
            Numeric::read(Format::Binary, &binary),
            Ok(value),
            "{text_form}"
        );
        let mut binary_key = Vec::new();
        put_key(Format::Binary, &binary, &mut binary_key).unwrap();
        assert_eq!(binary_key, key(text_form), "{text_form}");
    }
    // As PostgreSQL sends 1234567.89
    let mut binary = Vec::new();
    read("1234567.89").put(Format::Binary, &mut binary);
    assert_eq!(
        binary,
        [0, 3, 0, 1, 0, 0, 0, 2, 0, 123, 0x11, 0xd7, 0x22, 0xc4]
    );
}

#[test]
fn refuses_what_is_not_written_by_postgresql() {
    for text in ["", "-", "1.", ".5", "1e5", "+1", "0x1", "1.2.3", "nan"] {
        assert_eq!(
            Numeric::read(Format::Text, text.as_bytes()),
            Err(Invalid),
            "{text}"
        );
    }
    for binary in [
        &b""[..],
        &[0, 1, 0, 0, 0, 0, 0, 0],
        &[0, 1, 0, 0, 0, 0, 0, 0, 0x27, 0x10],
    ] {
        assert_eq!(Numeric::read(Format::Binary, binary), Err(Invalid));
    }
}

#[test]
fn averages_have_postgresqls_scale() {
    let check = |sum: &str, count, expected: &str| {
        assert_eq!(
            text(&read(sum).average(count).unwrap()),
            expected,
            "{sum} / {count}"
        );
    };
    // Each as `SELECT sum::numeric / count::numeric` answers.
    check("10", 4, "2.5000000000000000");
    check("1", 3, "0.33333333333333333333");
    check("2", 3, "0.66666666666666666667");
    check("-2", 3, "-0.66666666666666666667");
    check("0", 7, "0.00000000000000000000");
    check("100000", 3, "33333.333333333333");
    check("12345678901234567890", 7, "1763668414462081127");
    check("NaN", 7, "NaN");
    check("-Infinity", 7, "-Infinity");
    assert_eq!(read("1").average(0), None);
}

#[test]
fn products_quotients_and_rounding() {
    // Each as PostgreSQL answers.
    assert_eq!(text(&read("1.50").multiply(&read("2.0")).unwrap()), "3.000");
    assert_eq!(
        text(&read("10").divide(&read("4")).unwrap()),
        "2.5000000000000000"
    );
    assert_eq!(
        text(&read("-1.00").divide(&read("3")).unwrap()),
        "-0.33333333333333333333"
    );
    assert_eq!(read("1").divide(&read("0.0")), None);
    let round = |value: &str, places, expected: &str| {
        assert_eq!(text(&read(value).round(places)), expected, "{value}");
    };
    round("2.5", 0, "3");
    round("-2.5", 0, "-3");
    round("2.449", 1, "2.4");
    round("2.4", 3, "2.400");
    round("1250", -2, "1300");
    round("49", -2, "0");
    round("0.004", 2, "0.00");
    round("NaN", 2, "NaN");
    assert_eq!(read("-2.5").to_integer(), Some(-3));
    assert_eq!(read("9223372036854775808").to_integer(), None);
    assert_eq!(read("0.1").to_float8(), Some(0.1));
}

#[test]
fn sums_keep_the_greater_scale() {
    let sum = |a: &str, b: &str| text(&read(a).add(&read(b)).unwrap());
    assert_eq!(sum("1.50", "-1.5"), "0.00");
    assert_eq!(
        sum("99999999999999999999", "0.001"),
        "99999999999999999999.001"
    );
    assert_eq!(sum("Infinity", "1"), "Infinity");
    assert_eq!(sum("Infinity", "-Infinity"), "NaN");
    let huge = "9".repeat(WHOLE_DIGITS_MAX);
    assert_eq!(read(&huge).add(&read("1")), None);
}

#[test]
fn deviations_of_one_two_and_equal_values() {
    let check = |sum, squares, count, sample, root, expected: Option<&str>| {
        let found = deviation(&read(sum), &read(squares), count, sample, root);
        assert_eq!(
            found.as_ref().map(text).as_deref(),
            expected,
            "{sum} {squares} {count}"
        );
    };
    check("1", "1", 1, true, false, None);
    check("1", "1", 1, false, false, Some("0"));
    check("6", "12", 3, true, true, Some("0"));
    check("3", "5", 2, true, false, Some("0.50000000000000000000"));
    check("3", "5", 2, true, true, Some("0.70710678118654752440"));
    check("NaN", "NaN", 2, true, true, Some("NaN"));
}

/// Numbers that fit 128 bits have a short way, which has to lead where the long one does.
#[test]
fn short_ways_lead_where_long_ones_do() {
    let mut random = 1u64;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    for _ in 0..2_000 {
        let digits = |next: &mut dyn FnMut(u64) -> u64| {
            let length = next(24) + 1;
            (0..length).fold(String::new(), |text, _| format!("{text}{}", next(10)))
        };
        let number = |next: &mut dyn FnMut(u64) -> u64| {
            let sign = if next(3) == 0 { "-" } else { "" };
            format!("{sign}{}.{}", digits(next), digits(next))
        };
        let (a, b) = (number(&mut next), number(&mut next));
        let (Numeric::Finite(short_a), Numeric::Finite(short_b)) = (read(&a), read(&b)) else {
            panic!("finite");
        };
        // The same values of more digits than 128 bits hold.
        let long = |number: &Decimal| Decimal {
            digits: &number.digits * BigInt::from(10).pow(45),
            scale: number.scale + 45,
        };
        let scale = usize::try_from(next(20)).unwrap();
        if short_b.digits.sign() != Sign::NoSign {
            let short = short_a.divide_at(&short_b, scale);
            assert_eq!(
                short,
                long(&short_a).divide_at(&long(&short_b), scale),
                "{a} / {b}"
            );
        }
        let sum = Numeric::Finite(short_a.clone())
            .add(&Numeric::Finite(short_b.clone()))
            .unwrap();
        let long_sum = Numeric::Finite(long(&short_a))
            .add(&Numeric::Finite(long(&short_b)))
            .unwrap();
        let places = i32::try_from(short_a.scale.max(short_b.scale)).unwrap();
        assert_eq!(text(&sum), text(&long_sum.round(places)), "{a} + {b}");
        let zeros = "0".repeat(45);
        assert_eq!(
            format!("{}{zeros}", text(&read(&a))),
            text(&Numeric::Finite(long(&short_a)))
        );
    }
}
