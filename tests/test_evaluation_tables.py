"""Tables as sites bring them: three formats, and every problem named with file and row."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from hipnode.evaluation.tables import TableBox, TablesUnusable, load, load_labels

CLASSES = ("DF", "VF")
LABELS = "case_id,patient_id,y_class,split,boxes,sex\n"
GOOD_LABELS = LABELS + 'c1,p1,DF,test,"[[10, 10, 50, 60]]",F\nc2,p1,N,test,,F\nc3,p2,DF;VF,train,,M\n'
PREDICTIONS = "case_id,model_id,model_version,p_DF,p_VF,boxes\n"
BOX = '"[{""xyxy"": [10, 10, 50, 60], ""class"": ""DF"", ""score"": 0.9}]"'
GOOD_PREDICTIONS = PREDICTIONS + f"c1,m,1,0.9,0.1,{BOX}\nc2,m,1,0,0,\nc3,m,1,0.5,0.5,[]\n"
READS = "case_id,reader_id,condition,phase,y_read,seconds\n"


@pytest.fixture
def site(tmp_path):
    def brought(labels=GOOD_LABELS, predictions=GOOD_PREDICTIONS, reads=None):
        for name, text in (("labels.csv", labels), ("predictions.csv", predictions), ("reads.csv", reads)):
            if text is not None:
                (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(
            tmp_path / "labels.csv",
            tmp_path / "predictions.csv",
            CLASSES,
            tmp_path / "reads.csv" if reads is not None else None,
        )

    return brought


def problems(site, **tables):
    with pytest.raises(TablesUnusable) as refused:
        site(**tables)
    return [str(problem) for problem in refused.value.problems]


def test_empty_tables_are_named(site):
    assert problems(site, labels="", predictions=PREDICTIONS) == [
        "labels.csv: has no rows",
        "predictions.csv: has no rows",
    ]


def test_good_tables_come_as_they_are(site):
    seen = site(reads=READS + "c1,r1,no_ai,1,DF,31.5\nc1,r1,ai,2,N,\n")
    one, two, three = seen.labels
    assert (one.classes, two.classes, three.classes) == (("DF",), (), ("DF", "VF"))
    assert one.boxes == (TableBox("DF", (10, 10, 50, 60), 1.0),)  # the class of its row
    assert one.strata == {"sex": "F"}
    assert (one.row, three.row, three.split) == (2, 4, "train")
    assert seen.predictions[0].boxes == (TableBox("DF", (10, 10, 50, 60), 0.9),)
    assert seen.predictions[2].probabilities == {"DF": 0.5, "VF": 0.5}
    assert [(r.condition, r.y_read, r.seconds) for r in seen.reads] == [
        ("no_ai", "DF", 31.5),
        ("ai", "N", None),
    ]


def test_semicolons_and_a_byte_order_mark_are_read(site):
    labels = "\ufeffcase_id;patient_id;y_class\nc1;p1;DF\n"
    seen = site(labels=labels, predictions="case_id;model_id;p_DF\nc1;m;0.5\n")
    assert seen.labels[0].case_id == "c1"


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_other_formats_give_the_same_records(tmp_path, kind):
    labels = [
        {"case_id": "c1", "patient_id": "p1", "y_class": "DF", "boxes": [[10.0, 10, 50, 60]], "age": 80}
    ]
    box = {"xyxy": [10.0, 10, 50, 60], "class": "DF", "score": 0.9}
    predictions = [{"case_id": "c1", "model_id": "m", "p_DF": 0.9, "boxes": [box], "runtime_ms": None}]
    paths = tmp_path / f"labels.{kind}", tmp_path / f"predictions.{kind}"
    for path, rows in zip(paths, (labels, predictions), strict=True):
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    seen = load(*paths, CLASSES)
    assert seen.labels[0].boxes[0].corners == (10, 10, 50, 60)
    assert seen.labels[0].strata == {"age": "80"}
    assert seen.predictions[0].boxes == (TableBox("DF", (10, 10, 50, 60), 0.9),)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("c4,p3,XF,test,,", "unknown class 'XF'; known are DF, VF, N"),
        ("c4,p3,DF;N,test,,", "names N (no fracture) beside a class"),
        ("c4,p3,,test,,", "y_class is empty"),
        (",p3,DF,test,,", "case_id is empty"),
        ("c4,p3,DF,exam,,", "split is 'exam'; known are train, validation, test"),
        ('c4,p3,DF,test,"[[50, 10, 10, 60]]",', "box 1 is inverted or empty"),
        ('c4,p3,DF,test,"[[10, 10, 10, 60]]",', "box 1 is inverted or empty"),
        ('c4,p3,DF,test,"[[10, 10, 60]]",', "box 1 has not 4 numbers"),
        ('c4,p3,DF,test,"[[10, 10, 60, NaN]]",', "not a number"),
        ("c4,p3,DF,test,box,", "boxes is not JSON"),
        ("c4,p3,DF,test,7,", "boxes is not a list"),
        ('c4,p3,DF;VF,test,"[[10, 10, 50, 60]]",', "box 1 has no class"),
        ("c1,p1,DF,test,,", "its case_id is in row 2 already"),
        ("c4,p1,DF,train,,", "in split train here and in test at row 2; a patient belongs to one split"),
        ("c4,p3,DF", "has 3 fields, the header 6"),
    ],
)
def test_a_wrong_label_is_named_with_its_row(site, row, says):
    first = problems(site, labels=GOOD_LABELS + row + "\n")[0]
    assert first.startswith("labels.csv, row 5: ")
    assert says in first


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("c1,m,1,1.5,0,", "p_DF is 1.5, not a number in 0..1"),
        ('c1,m,1,"0,5",0,', "decimals take a point"),
        ("c1,m,1,nan,0,", "p_DF is nan"),
        ("c1,,1,0.5,0,", "model_id is empty"),
        ("c1,m,1,0.5,0,[]", "its case, model and version are in row 2 already"),
        ("c9,m,1,0.5,0,[]", "its case is not in labels.csv"),
    ],
)
def test_a_wrong_prediction_is_named_with_its_row(site, row, says):
    first = problems(site, predictions=GOOD_PREDICTIONS + row + "\n")[0]
    assert first.startswith("predictions.csv, row 5: ")
    assert says in first


def test_every_problem_of_all_tables_is_listed_at_once(site):
    seen = problems(
        site,
        labels=GOOD_LABELS + "c4,p3,XF,exam,,\nc1,p1,DF,train,,\n",
        predictions=PREDICTIONS + "c1,m,1,7,x,\n",
        reads=READS + "c1,r1,maybe,1,ZZ,-3\n",
    )
    assert "labels.csv, row 6: its case_id is in row 2 already" in seen  # though row 5 has an unknown class
    assert sum("a patient belongs to one split" in text for text in seen) == 1
    assert sum("has no prediction for 2 of 3 cases" in text for text in seen) == 1
    assert len(seen) == 10
    assert {text.split(".csv")[0] for text in seen} == {"labels", "predictions", "reads"}


def test_a_column_of_an_unknown_class_is_named_once(site):
    seen = problems(site, predictions="case_id,model_id,p_DF,p_QF\nc1,m,0,0\nc2,m,0,0\nc3,m,0,0\n")
    assert seen == ["predictions.csv: column p_QF is of an unknown class; known are DF, VF"]


def test_a_case_without_an_answer_is_no_negative(site):
    (said,) = problems(site, predictions=PREDICTIONS + "c1,m,1,0.9,0.1,\n")
    assert "model m 1 has no prediction for 1 of 2 cases, the first at row 3 of labels.csv" in said


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (b"\xff\xfe\x00", "is not UTF-8"),
        ("case_id,y_class\nc1,DF\n", "has no column patient_id"),
        (
            "case_id,case_id,y_class\nc1,c1,DF\n",
            "columns 1, 2: row 1 must give every column a name of its own",
        ),
        (LABELS + 'c1,p1,DF,test,"[[1', "is no whole CSV: a quote is not closed"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(site, labels, says):
    assert f"labels.csv: {says}" in problems(site, labels=labels)[0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.csv", None, "does not exist"),
        ("labels.xlsx", b"PK", "is no table we read"),
        ("labels.parquet", b"no", "cannot be read as .parquet"),
        ("labels.jsonl", b"{}\n[1]\n{", "row 2: is no JSON object"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TablesUnusable, match=r".") as refused:
        load(tmp_path / name, tmp_path / "none.csv", CLASSES)
    assert says in str(refused.value.problems[0])


def test_problems_repeat_no_identifier_of_a_patient(site):
    labels = LABELS + "Smith1,Jones2,XF,exam,,\nSmith1,Jones2,DF,test,,\nSmith1,Jones2,DF,train,,\n"
    text = "\n".join(problems(site, labels=labels, predictions=PREDICTIONS + "Smith9,m,1,7,0,\n"))
    assert "row" in text
    assert "Smith" not in text
    assert "Jones" not in text


def test_a_case_that_was_not_read_is_told_apart_and_is_no_negative(site):
    predictions = "case_id,model_id,p_DF,boxes,not_read\nc1,m,0.9,,\nc2,m,,,OTHER_REGION\nc3,m,0.2,,\n"
    seen = site(predictions=predictions)
    assert [p.case_id for p in seen.predictions] == ["c1", "c3"]
    assert [(p.case_id, p.not_read) for p in seen.unread] == [("c2", "OTHER_REGION")]


def test_a_case_that_was_not_read_has_no_answer(site):
    predictions = "case_id,model_id,p_DF,not_read\nc1,m,0.9,DECODE_FAILED\nc2,m,0.1,\nc3,m,0.2,\n"
    assert problems(site, predictions=predictions) == [
        "predictions.csv, row 2: it says why the case was not read, and yet has an answer: leave one of them empty"
    ]


def test_labels_are_read_alone_and_name_their_films(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"case_id": "c1", "patient_id": "p1", "y_class": "N", "file": "a.png", "tone": {"a": 1}}\n'
    )
    (label,) = load_labels(path, CLASSES)
    assert (label.file, label.strata) == ("a.png", {})  # a nested value divides no cases
    path.write_text('{"case_id": "c1", "patient_id": "p1", "y_class": "XY"}\n')
    with pytest.raises(TablesUnusable, match="row 1: y_class has the unknown class 'XY'"):
        load_labels(path, CLASSES)


def test_a_box_of_a_class_that_the_row_does_not_have_is_named(site):
    labels = LABELS + 'c1,p1,N,,"[{""xyxy"": [1, 1, 5, 5], ""class"": ""DF""}]",\n'
    assert problems(site, labels=labels, predictions=PREDICTIONS + "c1,m,1,0,0,\n") == [
        "labels.csv, row 2: it has a box of DF, and its y_class does not name DF"
    ]


def test_train_cases_need_no_prediction_and_the_others_do(site):
    labels = LABELS + "c1,p1,DF,train,,\nc2,p2,N,test,,\n"
    assert len(site(labels=labels, predictions=PREDICTIONS + "c2,m,1,0,0,\n").predictions) == 1
    (only,) = problems(site, labels=labels, predictions=PREDICTIONS + "c1,m,1,0,0,\n")
    assert "has no prediction for 1 of 1 cases, the first at row 3" in only


def test_the_size_of_an_image_is_whole_pixels(site):
    labels = "case_id,patient_id,y_class,rows,columns\nc1,p1,DF,2000,1500\nc2,p2,N,,\n"
    predictions = "case_id,model_id,p_DF,p_VF\nc1,m,1,0\nc2,m,0,0\n"
    assert [label.size for label in site(labels=labels, predictions=predictions).labels] == [
        (2000, 1500),
        None,
    ]
    half = labels.replace("2000", "2000.5")
    assert problems(site, labels=half, predictions=predictions) == [
        "labels.csv, row 2: rows and columns are whole numbers of pixels"
    ]


def test_a_file_without_header_is_named_without_a_value_of_its_patients(site):
    found = problems(site, labels="12345,12345,DF\n678,679,DF\n")
    assert found[0] == "labels.csv: columns 1, 2: row 1 must give every column a name of its own"
    assert "12345" not in "".join(found)


def test_empty_columns_right_of_a_spreadsheets_table_are_no_columns(tmp_path):
    (tmp_path / "labels.csv").write_text("case_id;patient_id;y_class;;\nc1;p1;DF;;\nc2;p2;N\n")
    found = load_labels(tmp_path / "labels.csv", CLASSES)
    assert [(label.case_id, label.classes) for label in found] == [("c1", ("DF",)), ("c2", ())]


@pytest.mark.parametrize(
    "boxes", ["[" * 5000, f"[[1, 2, {'9' * 5000}, 4]]", f"[[1, 2, {'9' * 400}, 4]]", "[[true, 2, 3, 4]]"]
)
def test_boxes_no_program_would_write_are_a_problem_of_their_row(site, boxes):
    found = problems(site, labels=LABELS + f'c1,p1,DF,test,"{boxes}",F\n')
    assert found[0].startswith("labels.csv, row 2: ")


def test_json_lines_end_at_line_feeds_only(tmp_path):
    (tmp_path / "labels.jsonl").write_text(
        '{"case_id": "c1", "patient_id": "p1", "y_class": "DF", "site": "a\u2028b"}\n', encoding="utf-8"
    )
    assert load_labels(tmp_path / "labels.jsonl", CLASSES)[0].site == "a\u2028b"


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "labels.csv").mkdir()
    with pytest.raises(TablesUnusable, match="is a folder; give the file in it"):
        load_labels(tmp_path / "labels.csv", CLASSES)


def test_a_film_of_another_size_than_the_label_says_is_a_problem(site):
    labels = "case_id,patient_id,y_class,rows,columns\nc1,p1,DF,640,512\nc2,p2,N,,\n"
    predictions = "case_id,model_id,p_DF,rows,columns\nc1,m,0.9,{},512\nc2,m,0.1,640,512\n"
    assert [p.size for p in site(labels=labels, predictions=predictions.format(640)).predictions] == [
        (640, 512)
    ] * 2
    assert problems(site, labels=labels, predictions=predictions.format(1280)) == [
        "predictions.csv, row 2: the model met a film of 1280 rows and 512 columns, labels.csv says 640 and 512; "
        "boxes of the two are not of the same pixels"
    ]


def test_a_case_with_no_score_but_that_of_no_fracture_is_no_negative(site):
    found = problems(site, predictions="case_id,model_id,p_N\nc1,m,0.9\nc2,m,0.1\nc3,m,0.5\n")
    assert found[0] == (
        "predictions.csv, row 2: it has neither boxes nor a p_ column of a class; known classes are DF, VF"
    )


def test_an_empty_score_is_named(site):
    found = problems(site, predictions="case_id,model_id,p_DF\nc1,m,\nc2,m,0.1\nc3,m,0.5\n")
    assert found == [
        "predictions.csv, row 2: p_DF is empty; a missing score is no 0. Give it, or say why in not_read"
    ]


def test_a_box_outside_its_film_is_a_problem_and_one_across_the_edge_is_not(site):
    labels = "case_id,patient_id,y_class,rows,columns,boxes\n" + 'c1,p1,DF,100,80,"[[-5, 50, 60, 120]]"\n'
    box = '"[{""xyxy"": [80, 10, 90, 60], ""class"": ""DF"", ""score"": 0.9}]"'
    found = problems(site, labels=labels, predictions=f"case_id,model_id,boxes\nc1,m,{box}\n")
    assert found == ["predictions.csv, row 2: box 1 lies outside its film of 100 rows and 80 columns"]


def test_a_box_without_score_is_named(site):
    found = problems(
        site, predictions=PREDICTIONS + 'c1,m,1,,,"[{""xyxy"": [1, 2, 3, 4], ""class"": ""DF""}]"\n'
    )
    assert "predictions.csv, row 2: box 1 has no score" in found


def test_no_class_is_called_any(tmp_path):
    (tmp_path / "labels.csv").write_text("case_id,patient_id,y_class\nc1,p1,any\n")
    (tmp_path / "predictions.csv").write_text("case_id,model_id,p_any\nc1,m,0.5\n")
    with pytest.raises(TablesUnusable, match="no class can be called any"):
        load(tmp_path / "labels.csv", tmp_path / "predictions.csv", ("any",))


def test_whole_numbers_with_a_decimal_are_the_same_case(tmp_path):
    (tmp_path / "labels.csv").write_text("case_id,patient_id,y_class\n7,1,DF\n8,2,N\n")
    table = pyarrow.table(
        {"case_id": [7.0, 8.0], "model_id": ["m", "m"], "p_DF": [0.9, 0.2], "p_VF": [0.0, 0.1]}
    )
    parquet.write_table(table, tmp_path / "predictions.parquet")
    found = load(tmp_path / "labels.csv", tmp_path / "predictions.parquet", CLASSES)
    assert [p.case_id for p in found.predictions] == ["7", "8"]


def test_thousands_of_one_kind_of_problem_do_not_hide_another(site):
    rows = "".join(f'c{i},p{i},DF,test,,"{i},5"\n' for i in range(2000))
    labels = LABELS.replace("sex", "rows") + rows + "c9999,,DF,test,,\n"
    with pytest.raises(TablesUnusable) as refused:
        site(labels=labels)
    lines = str(refused.value).splitlines()
    assert len(refused.value.problems) == 2002  # the last: cases without a prediction
    assert lines[5] == "labels.csv: 1995 more with this problem, rows 7 to 2001"
    assert lines[6] == "labels.csv, row 2002: patient_id is empty"


def test_a_film_under_two_names_is_a_duplicated_case_and_its_two_hips_are_not(site):
    header = "case_id,patient_id,y_class,image_uid,hip\n"
    predictions = "case_id,model_id,p_DF,p_VF\nc1,m,1,0\nc2,m,0,0\n"
    assert len(site(labels=header + "c1,p,DF,1.2,L\nc2,p,N,1.2,R\n", predictions=predictions).labels) == 2
    assert problems(site, labels=header + "c1,p,DF,1.2,\nc2,p,DF,1.2,none\n", predictions=predictions) == [
        "labels.csv, row 3: its image_uid and hip are in row 2 already"
    ]


def test_row_numbers_that_pandas_leaves_in_parquet_are_no_column(tmp_path):
    table = {"case_id": ["c1"], "patient_id": ["p1"], "y_class": ["DF"], "__index_level_0__": [7]}
    parquet.write_table(pyarrow.table(table), tmp_path / "labels.parquet")
    assert load_labels(tmp_path / "labels.parquet", CLASSES)[0].strata == {}


def test_every_row_of_a_problem_is_named(site):
    rows = [f"c{i},p{i},{'XX' if i % 3 == 0 or i > 20 else 'DF'},test,," for i in range(30)]
    with pytest.raises(TablesUnusable) as refused:
        site(labels=LABELS + "\n".join(rows) + "\n")
    assert (
        str(refused.value).splitlines()[5] == "labels.csv: 11 more with this problem, rows 17, 20, 23 to 31"
    )
