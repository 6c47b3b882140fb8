"""Call the methods of an object that lives in another process."""

from pathlib import Path

from ether import errors, ether

with ether.session(Path(__file__).with_name("session.yaml")) as lab:
    print("saved:", lab.save("store", "add", name="K12", mass_mg=4.5))
    print("saved:", lab.save("SampleStore", "add", name="B21", mass_mg=5.5))  # by class name, where one will do
    print("refused:", lab.save("store", "add", name="empty", mass_mg=0)["error"])

    print("mass of K12:", lab.get("store", "mass", name="K12"))
    try:
        lab.get("store", "mass", name="X9")
    except errors.CallError as exc:
        print("no such sample:", exc.type, exc)

    later = lab.get_later("store", "total")
    print("total:", lab.collect(later))
