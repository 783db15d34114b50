"""The procedural cervical spine: the demo patient, the truth of the tests, the only teacher."""
