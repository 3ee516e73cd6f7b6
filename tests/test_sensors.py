"""Sensors in files: what is read, what is refused, in which order, and what draws say of them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.interpolate import RegularGridInterpolator

from physflow.data import files
from physflow.fields import grid_of, to_dataset
from physflow.grid import Grid
from physflow.inference import assemble
from physflow.sensors import Sensor, held_out, observations_of, order_of, read_sensors, with_sensors

FIELDS = ("permeability", "pressure")
THREE = [
    Sensor((0.25, 0.5), "pressure", -0.125, 0.01),
    Sensor((0.5, 0.75), "permeability", 1.5, 0.2, log=True),
    Sensor((1.0, 0.0), "permeability", 2e3, 50.0),
]
PLAIN = """x,y,field,value,std
0.25,0.5,pressure,-0.125,0.01
0.5,0.75,log permeability,1.5,0.2
1,0,permeability,2e3,50
"""
GERMAN = """x;y;field;value;std
0,25;0,5;pressure;-0,125;0,01
0,5;0,75;log permeability;1,5;0,2
1;0;permeability;2000;50
"""
SPREADSHEET = """
"# wells, ""dry"" or not",,,,,
 Well,STD,Value,Field,y,x,
,,,,,,
A,0.01,-0.125,pressure,0.5,0.25,
"B, deep", 0.2, 1.5, "log_permeability", 0.75, 0.5,

  # C was dry
D,50,2e3,permeability,0,1,"""


def saved(folder, text, encoding="utf-8"):
    path = folder / "wells.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (PLAIN, "utf-8"),
        (PLAIN, "utf-8-sig"),
        (PLAIN.replace("\n", "\r\n"), "utf-8-sig"),
        (PLAIN.replace(",", "\t"), "utf-8"),
        (GERMAN, "utf-8"),
        (PLAIN.replace(",", ";"), "utf-8"),
        (SPREADSHEET, "utf-8"),
    ],
    ids=["plain", "mark", "windows", "tabs", "decimal commas", "semicolons", "spreadsheet"],
)
def test_tables_as_people_save_them_read_the_same(tmp_path, text, encoding):
    assert read_sensors(saved(tmp_path, text, encoding), fields=FIELDS) == THREE


def test_places_follow_the_axes_of_the_grid(tmp_path):
    path = saved(tmp_path, "Depth,field,value,std,time\n3,head,1,0.1,5\n")
    assert read_sensors(path, axes=("time", "Depth")) == [Sensor((5.0, 3.0), "head", 1.0, 0.1)]
    assert read_sensors(path, axes=("Depth",)) == [Sensor((3.0,), "head", 1.0, 0.1)]


def test_a_field_may_itself_be_called_log(tmp_path):
    path = saved(tmp_path, "x,y,field,value,std\n0,0,log K,1,0.1\n")
    (as_field,) = read_sensors(path, fields=("log K",))
    (as_logarithm,) = read_sensors(path, fields=("K",))
    assert (as_field.field, as_field.log, as_field.quantity) == ("log K", False, "log K")
    assert (as_logarithm.field, as_logarithm.log, as_logarithm.quantity) == ("K", True, "log K")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty; expected a header, x,y,field,value,std, and a line for each sensor"),
        ("# nothing yet\n\n,,,\n", " is empty; expected a header, x,y,field,value,std, and a line for each sensor"),
        ("x,y,field,value,std\n# none\n", " holds a header and no sensor; expected a line for each"),
        (
            "# wells\nx,y,field,value,sdt\n",
            ", line 2: no column 'std', expected x, y, field, value, std; found: x, y, field, value, sdt",
        ),
        ("x,y,field,value,std,x\n", ", line 1: two columns 'x', expected x, y, field, value, std"),
        (
            PLAIN + "0.1,0.2,pressure,dry,0.1\n",
            ", line 5: expected a number as value, found 'dry'; leave out sensors without a reading",
        ),
        (PLAIN + "0.1,,pressure,1,0.1\n", ", line 5: expected a number as y, found ''; leave out"),
        ("x,y,field,value,std\n1 000,0,pressure,1,1\n", ", line 2: expected a number as x, found '1 000'"),
        ("x,y,field,value,std\n0,0,pressure,nan,1\n", ", line 2: value must be finite, got nan; leave out sensors"),
        ("x,y,field,value,std\n0,inf,pressure,0,1\n", ", line 2: place must be finite, got (0.0, inf); leave out"),
        (
            "x,y,field,value,std\n\n0,0,pressure,1,0\n",
            ", line 3: std must be positive, got 0: it is how far a reading may be off, and none is exact",
        ),
        ("x,y,field,value,std\n0,0,pressure,1,-0.1\n", ", line 2: std must be positive, got -0.1"),
        ("x,y,field,value,std\n0,0,,1,1\n", ", line 2: expected the name of a field, found an empty cell"),
        ("x,y,field,value,std\n0,0,log ,1,1\n", ", line 2: unknown field 'log'; "),
        (
            "x,y,field,value,std\n0,0,presure,1,1\n",
            ", line 2: unknown field 'presure'; did you mean 'pressure'? valid: log permeability, log pressure, "
            "permeability, pressure",
        ),
        (
            "x,y,field,value,std\n0,0,log permeabilty,1,1\n",
            ", line 2: unknown field 'log permeabilty'; did you mean 'log permeability'?",
        ),
        ("x,y,field,value,std\n0,0,pressure,1\n", ", line 2: expected 5 cells, one for each column, found 4"),
        (
            "x,y,field,value,std\n0,5,0,25,pressure,1,1\n",
            ", line 2: expected 5 cells, one for each column, found 7; numbers with a decimal comma need semicolons",
        ),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, text, message):
    path = saved(tmp_path, text)
    with pytest.raises(ValueError) as error:
        read_sensors(path, fields=FIELDS)
    assert str(error.value).startswith(f"{path}{message}")


def test_what_is_no_text_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.csv"):
        read_sensors(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"wells\.csv is no text in UTF-8; save the table as CSV UTF-8"):
        read_sensors(saved(tmp_path, PLAIN, "utf-16"))


def many(rng, bounds=((0.0, 2.0), (-1.0, 0.5)), count=12):
    """Sensors of three quantities in mixed order, no two of one value."""
    kinds = [("pressure", False), ("permeability", True), ("permeability", False), ("pressure", False)]
    places = rng.uniform(*np.array(bounds).T, (count, len(bounds))).tolist()
    return [
        Sensor(tuple(place), field, i + 0.5, 1.0 + i, log)
        for i, (place, (field, log)) in enumerate(zip(places, itertools.cycle(kinds), strict=False))
    ]


def test_readings_are_in_the_order_that_is_told(rng):
    sensors = many(rng)
    observations, order = observations_of(sensors), order_of(sensors)
    assert sorted(order) == list(range(len(sensors)))
    values = np.concatenate([observation.values for observation in observations])
    stds = np.concatenate([observation.noise_std for observation in observations])
    places = np.concatenate([observation.locations for observation in observations])
    for k, i in enumerate(order):
        assert (values[k], stds[k], tuple(places[k])) == (sensors[i].value, sensors[i].std, sensors[i].place)
    assert [(o.field, o.log, len(o.values)) for o in observations] == [
        ("pressure", False, 6),
        ("permeability", True, 3),
        ("permeability", False, 3),
    ]
    # Within a quantity they stay in their order.
    assert order[:6] == [0, 3, 4, 7, 8, 11]
    with pytest.raises(ValueError, match="expected at least one sensor, got none"):
        observations_of([])
    assert order_of([]) == []


@pytest.mark.parametrize(("share", "count"), [(0.2, 2), (0.01, 1), (0.5, 4), (0.99, 7), (0, 0)])
def test_whole_places_are_held_out(rng, share, count):
    # Eight places, the first four of them with two readings.
    single = many(rng, count=8)
    sensors = single + [Sensor(s.place, "pressure", -1.0, 1.0) for s in single[:4]]
    kept, held = held_out(sensors, share, seed=3)
    assert sorted(kept + held, key=sensors.index) == sensors
    assert [s for s in sensors if s in kept] == kept
    assert [s for s in sensors if s in held] == held
    assert not {s.place for s in kept} & {s.place for s in held}
    assert len({s.place for s in held}) == count


def test_who_is_held_out_depends_on_the_seed_alone(rng):
    sensors = many(rng)
    choices = [held_out(sensors, 0.25, seed)[1] for seed in range(20)]
    assert choices == [held_out(sensors, 0.25, seed)[1] for seed in range(20)]
    times = [sum(s in held for held in choices) for s in sensors]
    # Each is in a quarter of 20 choices: 5 with a standard deviation of 1.9, and 0 or 13 by chance once in a thousand.
    assert min(times) > 0
    assert max(times) < 13


def test_what_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\), got 1"):
        held_out(THREE, 1.0)
    with pytest.raises(ValueError, match="expected sensors at two places or more, to hold some out, got 1"):
        held_out(THREE[:1], 0.5)


def draws(rng, count=3, shape=(7, 5), bounds=((0.0, 2.0), (-1.0, 0.5)), axes=()):
    grid = Grid(shape, bounds, axes=axes)
    u = torch.from_numpy(rng.standard_normal((count, 2, *shape)))
    u[:, 0] = u[:, 0].exp()
    return to_dataset(u, FIELDS, grid, {"seed": 4})


@pytest.mark.parametrize("axes", [(), ("east", "north")])
def test_predictions_are_interpolated_in_the_order_of_the_file(rng, axes):
    ds = draws(rng, axes=axes)
    names = axes or ("x", "y")
    coordinates = [ds[axis].values for axis in names]
    # Within the outermost points, where scipy interpolates too.
    sensors = many(rng, [(axis[0], axis[-1]) for axis in coordinates])
    found = with_sensors(ds, sensors, sensors[2:5])
    assert found["predicted"].shape == (3, 12)
    for i, sensor in enumerate(sensors):
        u = ds[sensor.field].values
        u = np.log(u) if sensor.log else u
        expected = [RegularGridInterpolator(coordinates, one)(sensor.place).item() for one in u]
        np.testing.assert_allclose(found["predicted"][:, i], expected, rtol=1e-12)
        place = tuple(float(found[f"sensor_{axis}"][i]) for axis in names)
        row = tuple(found[name].values[i] for name in ("sensor_field", "observed", "observed_std", "sensor_log"))
        assert (place, *row) == (sensor.place, sensor.field, sensor.value, sensor.std, sensor.log)
    assert found["held_out"].values.tolist() == [2 <= i < 5 for i in range(12)]


def test_sensors_are_replaced_and_nothing_else(rng):
    ds = draws(rng)
    first = with_sensors(ds, many(rng), [])
    sensors = many(rng, count=3)
    second = with_sensors(first, sensors)
    xr.testing.assert_identical(second, with_sensors(ds, sensors))
    xr.testing.assert_identical(second.drop_dims("sensor"), ds)
    assert not second["held_out"].any()


def test_draws_with_sensors_are_a_file(rng, tmp_path):
    found = with_sensors(draws(rng), many(rng), [])
    files.write(found, tmp_path / "draws.nc")
    with xr.open_dataset(tmp_path / "draws.nc") as again:
        xr.testing.assert_identical(again.load(), found)


def test_no_draws_predict_nothing(rng):
    found = with_sensors(draws(rng, count=0), many(rng))
    assert found["predicted"].shape == (0, 12)


def test_sensors_that_do_not_fit_the_draws(rng):
    ds = draws(rng)
    with pytest.raises(ValueError, match="has no variable 'head'"):
        with_sensors(ds, [Sensor((0.0, 0.0), "head", 0.0, 1.0)])
    with pytest.raises(ValueError, match=r"sensor 0 at \(3, 0\) lies outside the domain \[0, 2\] x \[-1, 0.5\]"):
        with_sensors(ds, [Sensor((3.0, 0.0), "pressure", 0.0, 1.0)])
    with pytest.raises(ValueError, match="expected at least one sensor, got none"):
        with_sensors(ds, [])


def test_assembled_readings_match_the_sensors(rng):
    """The order holds for what `assemble` makes of the observations, which is what `condition` is given."""
    ds = draws(rng)
    sensors = many(rng)
    values = assemble(observations_of(sensors), FIELDS, grid_of(ds).coordinates()).values
    assert values.tolist() == [sensors[i].value for i in order_of(sensors)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("permeability", ("permeability", False)),
        ("K", ("permeability", False)),
        ("p", ("pressure", False)),
        *((name, ("permeability", True)) for name in ("log permeability", "log_permeability", "log(permeability)")),
        *((name, ("permeability", True)) for name in ("log K", "log_K", "log(K)", "Log (K)")),
    ],
)
def test_a_field_has_several_names(tmp_path, name, expected):
    (sensor,) = read_sensors(saved(tmp_path, f"x,y,field,value,std\n0,0,{name},1,0.1\n"), fields=FIELDS)
    assert (sensor.field, sensor.log, sensor.line) == (*expected, 2)


@pytest.mark.parametrize("name", ["K", "log K", "logpressure", "log()", "k"])
def test_symbols_are_those_of_the_fields_there_are(tmp_path, name):
    with pytest.raises(ValueError, match=r"line 2: unknown field '.*'; .*valid: .*log pressure"):
        read_sensors(saved(tmp_path, f"x,y,field,value,std\n0,0,{name},1,0.1\n"), fields=("pressure", "head"))


def test_a_table_without_a_header_is_named(tmp_path):
    path = saved(tmp_path, PLAIN.partition("\n")[2])
    message = r"line 1: expected a header, x, y, field, value, std, found '0\.25,0\.5,pressure,-0\.125,0\.01'"
    with pytest.raises(ValueError, match=message):
        read_sensors(path, fields=FIELDS)


def test_sensors_know_their_lines(tmp_path, rng):
    sensors = read_sensors(saved(tmp_path, SPREADSHEET), fields=FIELDS)
    assert [sensor.line for sensor in sensors] == [5, 6, 9]
    assert [list(o.labels) for o in observations_of(sensors)] == [["line 5"], ["line 6"], ["line 9"]]
    # One line twice is two readings.
    assert [len(o.values) for o in observations_of(sensors * 2)] == [2, 2, 2]
    found = with_sensors(draws(rng, bounds=((0.0, 2.0), (-1.0, 1.0))), sensors)
    assert found["sensor_line"].values.tolist() == [5, 6, 9]
    assert with_sensors(draws(rng), many(rng, count=2))["sensor_line"].values.tolist() == [0, 0]


def test_variables_of_sensors_say_what_they_are(rng):
    found = with_sensors(draws(rng), many(rng))
    for name in [name for name, variable in found.data_vars.items() if "sensor" in variable.dims]:
        assert found[name].attrs["long_name"]
    # Of a logarithm and a field there is no common unit.
    assert "units" not in found["observed"].attrs
    assert with_sensors(draws(rng), many(rng, count=1))["predicted"].attrs["units"] == "1"


def test_a_constant_in_the_readings_is_predicted(rng):
    ds, sensors = draws(rng), many(rng)
    plain = with_sensors(ds, sensors)["predicted"]
    ds["offset"] = ("sample", np.array([1.0, -2.0, 0.5]), {"fields": "pressure"})
    moved = with_sensors(ds, sensors)["predicted"] - plain
    of_pressure = [sensor.field == "pressure" for sensor in sensors]
    np.testing.assert_allclose(moved, ds["offset"].values[:, None] * np.array(of_pressure)[None], atol=1e-12)


def test_the_error_of_a_model_stays_with_its_sensor(rng):
    """`condition` orders readings by quantity, those used first; a table has its own order."""
    ds, sensors = draws(rng), many(rng)
    used, held = sensors[:3] + sensors[6:], sensors[3:6]
    order = [s for group in (used, held) for s in (group[k] for k in order_of(group))]
    read = ("sensor", [s.value for s in order])
    given = ds.assign(observed=read, model_error=("sensor", [100 + s.value for s in order]))
    found = with_sensors(given, sensors, held)
    np.testing.assert_array_equal(found["model_error"], [100 + s.value for s in sensors])
    xr.testing.assert_identical(with_sensors(found, sensors, held), found)
    # Of those held out nothing is known.
    without = with_sensors(given.isel(sensor=slice(len(used))), sensors, held)["model_error"].values
    assert [i for i in range(12) if np.isnan(without[i])] == [3, 4, 5]
    assert "model_error" not in with_sensors(given, many(rng, count=12)[::-1], held)


def test_sensors_beyond_the_outermost_nodes_are_outside(rng):
    grid = Grid((7, 5), ((0.0, 2.0), (-1.0, 0.5)), centering="nodes")
    u = torch.from_numpy(np.exp(rng.standard_normal((3, 2, 7, 5))))
    with pytest.raises(ValueError, match=r"sensor 0 at \(2.1, 0\) lies outside the domain \[0, 2\] x \[-1, 0.5\]"):
        with_sensors(to_dataset(u, FIELDS, grid), [Sensor((2.1, 0.0), "pressure", 0.0, 1.0)])


def test_the_table_of_the_examples_is_what_the_documentation_says():
    sensors = read_sensors(Path(__file__).parent.parent / "examples" / "wells.csv", fields=FIELDS)
    used, held = held_out(sensors, 0.2, seed=0)
    assert (len(sensors), len({s.place for s in sensors})) == (30, 20)
    assert (len(used), len({s.place for s in used}), len(held)) == (25, 16, 5)
