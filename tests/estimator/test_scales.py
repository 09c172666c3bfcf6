"""Words whose order is known, and words whose order is not."""

import pytest

from pyro_corex.estimator.scales import known_order

SCALES = [
    "Strongly disagree|Disagree|neither agree nor disagree|Agree|Strongly Agree",
    "Strongly disagree (1)|Disagree (2)|Agree (4)|Strongly agree (5)",
    "SD|D|N|A|SA",
    "never|rarely|sometimes|often|always",
    "never|yearly|monthly|weekly|daily",
    "Never|A few times a year|Once a month|A few times a month|Once a week|Every day",
    "Not at all|Several days|More than half the days|Nearly every day",
    "none|low|medium|high",
    "none|mild|moderate|severe",
    "nie|selten|manchmal|oft|immer",
    "jamais|rarement|parfois|souvent|toujours",
    "nunca|rara vez|a veces|a menudo|siempre",
    "stimme gar nicht zu|stimme eher nicht zu|teils/teils|stimme eher zu|stimme voll zu",
    "pas du tout d'accord|plutôt pas d’accord|neutre|plutôt d'accord|tout à fait d'accord",
    "totalmente en desacuerdo|en desacuerdo|neutral|de acuerdo|totalmente de acuerdo",
]
SIGNS = ["-|+", "-|+|++|+++", "-|+-|+|++", "-|±|1+|2+", "--|-|0|+|++", "neg|trace|1+|2+"]
CODES = [
    "1 (not at all)|2|3|7 - very much",
    "1 never|2 rarely|3. often",
    "1 never|2 rarely|5 always",
    "1 - no|2 - maybe|3 - yes",
    "Never (1)|Now and then (2)|Ever (3)",
    "12-A|13-B",
]
BANDS = [
    "<18|18-24|25-34|65+",
    "Under 18|18 to 24|25 to 64|65 and over",
    "younger than 18|18-34|older than 34",
    "<=5|6-10|>=11",
    "(-inf, 0.0]|(0.0, 5.0]|(5.0, 10.5]",
    "[0,1e+03]|(1e+03,2e+03]",
    "-10 to -5|-5 to 0|0 to 5",
    "2020-21|2021-22|2022-23",
    "2020/21|2021/22",
    "before 2000|2000–2009|2010–2019|2020 or later",
    "1/5|2/5|4/5",
    "<$10,000|$10,000-$20,000|$20,000-$100,000|>$100,000",
    "Under $500,000|$500,000 to $1 million|$1 million to $5 million|Over $5 million",
    "less than $100k|$100k-$500k|$500k to $1 million|over $1 million",
    "under 1 million|1-5 million|5-10 million",
    "unter 1.000 €|1.000 bis unter 2.000 €|2.000 € und mehr",
    "up to 1.000 €|1.001-2.500 €|über 2.500 €",
    "< 500 €|500-1.000 €|> 1.000 €",
    "<0.5%|0.5-1%|1-2.5%|>2.5%",
    "1.500-2|2.5-3",
    "0|1-9|10-500|500-1k|1k-20k|20k-1m|>1m",
    "none|1 child|2 children|3 or more children",
    "None|1|2|3+",
    "none|1|2|3",
]
UNITS = [
    "0-5 yrs|6-10 yrs|10+ yrs",
    "less than 30 min|30-60 min|1-2 hours|2 hours or more",
    "less than 6 months|6-12 months|1-2 years|more than 2 years",
    "0-6 months|6 months-1 year|1 to 2 years",
    "6 Monate|1 Jahr|2 Jahre",
    "500 m|1 km|2 km",
    "15 m|30 m|1 h|2 h",
    "3m|6m|1 year|2 years",  # minutes or months: the order is the same
    "100 ms|1 s",
    "5 m/s|30 km/h|10 m/s",
    "never|1-2 times|3+ times",
    "1 time a month|1 time per week|3 times a week|2 times a day",
    "never|less than once a month|2-3 times per month|once a week|twice a week|daily",
]


@pytest.mark.parametrize("order", SCALES + SIGNS + CODES + BANDS + UNITS)
def test_words_whose_order_is_known(order):
    order = order.split("|")
    assert known_order(sorted(order)) == known_order(order[::-1]) == order


NOT = [
    "low|red",
    "rarely|seldom",
    "A|D|N",  # grades, perhaps
    "one",
    "01|02",
    "1a|1b",
    "1.5.2020|2.5.2020",
    "1/2020|2/2019|3/2021",
    "2/5|1/2|3/4",
    "1/2|1|3",
    "1 hr 90 min|2 hr",
    "80s|90s|00s",
    "5 feet|6 yards|7 leagues",
    "1. Juni|15. Mai",
    "15-Jan|1-Feb",
    "10:30|11:15",
    "$5|€6",
    "5 miles|3 leagues",
    "5 m|2 d",  # minutes or months
    "500|1m|2 km",
    "5|30 min|1 h",
    "10-5|11-12",
    "1 pint|3 gallons",
    "1 time a day|2 red|3 times a week",
    "5 a day|4 red",
    "1,001 g|5.678 g|1 kg",  # two ways to read the marks
    "none|12.5 mg|20 mg",  # amounts, rather than steps
    "none|0|1|2",
    "never|14|15|17",
    "none|2|3",
]


@pytest.mark.parametrize("words", NOT)
def test_words_whose_order_is_not(words):
    assert known_order(words.split("|")) == []
