"""What is lost on the way from the image to the measurement, ``y = N(A(x))``: operators, noise, problems."""
