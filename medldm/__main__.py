"""`python -m medldm`: the command where the folder of programs is not on the path, as often on Windows."""

from medldm.cli import main

if __name__ == "__main__":
    main()
