/* Reads the image in example.h every two seconds. Prints its class, the scores of all classes and
 * the time that it took. */
#include <digit.h>

#include "example.h"

void setup()
{
    Serial.begin(115200);
}

void loop()
{
    int32_t scores[DIGIT_CLASSES];
    unsigned long start = micros();
    int digit = digit_read(example_image, scores);
    unsigned long taken = micros() - start;
    bool equal = true;

    Serial.print("class ");
    Serial.print(digit);
    Serial.print(", scores");
    for (int k = 0; k < DIGIT_CLASSES; k++) {
        Serial.print(" ");
        Serial.print((long)scores[k]);
        equal = equal && scores[k] == example_scores[k];
    }
    Serial.print(equal ? ", as expected, in " : ", NOT as expected, in ");
    Serial.print(taken);
    Serial.println(" microseconds");
    delay(2000);
}
